"""What an administrator may set of workspaces on one Docker Engine."""

from __future__ import annotations

import ipaddress
from typing import Any

from traitlets import Dict, Enum, HasTraits, Integer, List, TraitError, Unicode, validate

from elara_hub.version import __version__
from elara_spawner.docker.objects import Network


class EngineSettings(HasTraits):
    """Settings of `DockerWorkspaceSpawner`, which has more: those of every workspace, of containers, and its own."""

    instance: Any

    pull_timeout = Integer(
        900,
        help="Seconds that fetching an image may take, apart from the start itself. What takes longer goes on being "
        "fetched, and its user is told to come back. Default 900.",
    ).tag(config=True)
    launch_timeout = Integer(
        300,
        help="Seconds from the created container to its first answer. What takes longer is stopped, and its last "
        "lines are shown. Default 300: ten at once on two busy cores took 224. The hub's own `start_timeout` is set "
        "from this and `pull_timeout`; setting it does nothing.",
    ).tag(config=True)
    stop_timeout = Integer(
        10, help="Seconds from the request to stop until the container is killed, for kernels to write what they hold."
    ).tag(config=True)
    bridge = Unicode(
        "elara-ws",
        help="Name of the workspaces' network bridge on the machine, at most 15 characters; the packet filter's "
        "rules go by it. Two installations on one engine need two.",
    ).tag(config=True)
    subnet = Unicode(
        "10.77.0.0/16",
        help="IPv4 addresses of the workspaces' network. The first is the machine's own; the rest of the lower half "
        "is for the site's own containers, such as the proxy, which may connect to workspaces; workspaces get the "
        "upper half.",
    ).tag(config=True)
    name_servers = List(
        Unicode(),
        help="Name servers of workspaces, as IPv4 addresses. Default: the machine's own. Workspaces may ask them "
        "over UDP and TCP even where `outside` is off.",
    ).tag(config=True)
    host_names = Dict(
        help="Further host names in workspaces and their IPv4 addresses. Example `{'elara.example.org': "
        "'10.77.0.1'}`, where the site's name leads to an address that workspaces do not reach.",
    ).tag(config=True)
    firewall = Enum(
        ["auto", "direct", "container", "external"],
        "auto",
        help="Who closes the workspaces' network to the rest of the machine, with iptables: `direct` (the hub, as "
        "root on the machine itself), `container` (a one-shot container of `rules_image` with NET_ADMIN on the "
        "machine's network), `auto` (default; the one of both that works here). Where the rules cannot be set, no "
        "workspace starts. `external`: nobody; you have secured the network otherwise. Without rules a workspace "
        "reaches every port of the machine.",
    ).tag(config=True)
    rules_image = Unicode(
        f"elara/hub:{__version__}",
        help="Image of the one-shot container that sets the packet filter: any with a shell and iptables.",
    ).tag(config=True)
    volume_driver = Unicode(
        "local",
        help="Driver of homes and project volumes. A volume that was made with another one is refused, not reused.",
    ).tag(config=True)
    volume_options = Dict(
        help="Options of that driver; `{name}` becomes the volume's name. Example for NFS: `{'type': 'nfs', 'o': "
        "'addr=10.0.0.9,rw', 'device': ':/export/{name}'}`.",
    ).tag(config=True)
    pull_policy = Enum(
        ["registry", "never", "always"],
        "registry",
        help="When images are fetched: `registry` (default: when missing, and only those whose name begins with a "
        "registry's, such as `registry.example.org/team/pytorch:1`; names like `elara/pytorch` are built here, and "
        "anybody may own them in a public registry), `never`, or `always` (those of a registry, at each start).",
    ).tag(config=True)

    @validate("subnet")
    def _check_subnet(self, proposal: Any) -> str:
        try:
            if ipaddress.IPv4Network(proposal.value).prefixlen <= 28:
                return str(proposal.value)
        except ValueError:
            pass
        raise TraitError(
            f"subnet is {proposal.value!r}: give an IPv4 network of at least 16 addresses, as 10.77.0.0/16."
        )

    @validate("bridge")
    def _check_bridge(self, proposal: Any) -> str:
        value = str(proposal.value)
        if 1 <= len(value) <= 15 and value.replace("-", "").isalnum() and value.isascii():
            return value
        raise TraitError(f"bridge is {value!r}: use at most 15 letters, digits and hyphens.")

    @property
    def network(self) -> Network:
        """The network of this installation's workspaces."""
        return Network(
            name=f"{self.instance}-workspaces",
            bridge=self.bridge,
            subnet=ipaddress.IPv4Network(self.subnet),
            dns=tuple(self.name_servers),
            names=tuple(sorted(self.host_names.items())),
        )
