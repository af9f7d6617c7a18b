"""Pure builders of what the Docker Engine is asked for: bodies and arguments of its API, as plain dicts."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from elara_spawner.container import HOME, LABEL, RUNTIME, SCRATCH, Container, Volume

CPU_PERIOD = 100_000
PREPARED = PurePosixPath("/prepare")
BRIDGE_NAME = "com.docker.network.bridge.name"
ICC = "com.docker.network.bridge.enable_icc"
# Without a limit a workspace that prints for ever fills the engine's disk.
_LOGS = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}}
_INITS = ("tini", "dumb-init", "docker-init", "catatonit")
_MIB = 2**20
_OWNING = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID")


@dataclass(frozen=True)
class Network:
    """The bridge that workspaces are on. The lower half of `subnet` is for the site's own containers.

    `dns` are name servers to ask instead of the machine's own; `names` are further names and their addresses.
    """

    name: str
    bridge: str
    subnet: ipaddress.IPv4Network
    dns: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()

    @property
    def gateway(self) -> str:
        """The machine's own address on the bridge: the first one."""
        return str(self.subnet[1])

    @property
    def own(self) -> ipaddress.IPv4Network:
        """Addresses of the site's own containers, which may open connections to workspaces."""
        return next(self.subnet.subnets())

    @property
    def workspaces(self) -> ipaddress.IPv4Network:
        """Addresses that workspaces get."""
        return list(self.subnet.subnets())[1]


def container(workspace: Container, network: Network, entry_point: Sequence[str] = ()) -> dict[str, Any]:
    """The body of ``POST /containers/create``.

    Args:
        entry_point: the image's own; decides whether the engine has to add an init process.
    """
    limits = workspace.limits
    mounts = [mount(volume) for volume in workspace.volumes]
    owned = f"uid={workspace.uid},gid={workspace.gid}"
    tmpfs = {str(RUNTIME): f"rw,nosuid,nodev,noexec,size={16 * _MIB},mode=0700,{owned}"}
    if workspace.read_only_root:
        # Programs are run from here: pip builds packages in it.
        tmpfs["/tmp"] = f"rw,nosuid,nodev,exec,size={limits.temporary_bytes},mode=1777"  # noqa: S108 - in the container
    if workspace.scratch_bytes:
        tmpfs[str(SCRATCH)] = f"rw,nosuid,nodev,exec,size={workspace.scratch_bytes},mode=0700,{owned}"
    elif workspace.scratch_bytes == 0:
        # Without a name: it goes with the container.
        mounts.append({"Type": "volume", "Target": str(SCRATCH)})
    host: dict[str, Any] = {
        "NetworkMode": network.name,
        "Mounts": mounts,
        "Tmpfs": tmpfs,
        "ReadonlyRootfs": workspace.read_only_root,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "IpcMode": "private",
        "Memory": limits.memory_bytes,
        # The same figure for memory with swap is: no swap.
        "MemorySwap": limits.memory_bytes,
        "CpuPeriod": CPU_PERIOD,
        "CpuQuota": int(limits.cpus * CPU_PERIOD),
        "PidsLimit": limits.processes,
        "ShmSize": limits.shared_memory_bytes,
        "Init": not _is_init(entry_point),
        "LogConfig": _LOGS,
        # A workspace that ended is started by its user, with the roles of that time.
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        "ExtraHosts": [f"{name}:{address}" for name, address in network.names],
    }
    if network.dns:
        host["Dns"] = list(network.dns)
    body: dict[str, Any] = {
        "Image": workspace.image,
        "Hostname": workspace.host,
        "User": f"{workspace.uid}:{workspace.gid}",
        "WorkingDir": str(HOME),
        "Env": [f"{name}={value}" for name, value in sorted(workspace.environment.items())],
        "Labels": dict(workspace.labels),
        "ExposedPorts": {f"{workspace.port}/tcp": {}},
        "HostConfig": host,
    }
    if workspace.command:
        body["Cmd"] = list(workspace.command)
    return body


def mount(volume: Volume) -> dict[str, Any]:
    """A volume at its place. Only a new home takes over what the image has at that place."""
    return {
        "Type": "volume",
        "Source": volume.name,
        "Target": volume.target,
        "ReadOnly": volume.read_only,
        "VolumeOptions": {"NoCopy": volume.kind != "home"},
    }


def network(wanted: Network, instance: str) -> dict[str, Any]:
    """Arguments of docker-py's `create_network`."""
    return {
        "name": wanted.name,
        "driver": "bridge",
        "check_duplicate": True,
        "internal": False,
        "enable_ipv6": False,
        "options": {BRIDGE_NAME: wanted.bridge, ICC: "false"},
        "ipam": {
            "Driver": "default",
            "Config": [{"Subnet": str(wanted.subnet), "IPRange": str(wanted.workspaces), "Gateway": wanted.gateway}],
        },
        "labels": {LABEL + "instance": instance, LABEL + "kind": "network"},
    }


def volume(wanted: Volume, instance: str, driver: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of docker-py's `create_volume`. ``{name}`` in a value of `options` becomes the volume's name."""
    return {
        "name": wanted.name,
        "driver": driver,
        "driver_opts": {key: value.replace("{name}", wanted.name) for key, value in options.items()},
        "labels": {LABEL + "instance": instance, LABEL + "kind": wanted.kind, **wanted.labels},
    }


def preparation(volumes: Sequence[Volume], image: str, uid: int, gid: int, instance: str) -> dict[str, Any]:
    """The body of a container that makes new volumes ready, once: owner, mode, and for a shared one its default ACL.

    The ACL makes what one member writes writable for the others, also for a program that sets a umask of 022.
    """
    lines = ["set -eu"]
    mounts = []
    for index, entry in enumerate(volumes):
        place = PREPARED / str(index)
        mounts.append({**mount(entry), "Target": str(place), "ReadOnly": False, "VolumeOptions": {"NoCopy": True}})
        lines.append(f"chown {uid}:{gid} {place}")
        if entry.kind == "project":
            lines.append(f"chmod 2770 {place}")
            acl = f"setfacl -d -m u::rwX,g::rwX,g:{gid}:rwX,m::rwX,o::- {place}"
            lines.append(f"if command -v setfacl >/dev/null; then {acl}; else echo no setfacl in the image; fi")
        else:
            lines.append(f"chmod 0700 {place}")
    return _helper(image, "\n".join(lines), instance, {"NetworkMode": "none", "Mounts": mounts}, _OWNING)


def folders_at_home(home: Volume, volumes: Sequence[Volume]) -> list[str]:
    """The folders of a home that other volumes are mounted in and at, outermost first, as paths from the home."""
    found: dict[str, None] = {}
    for entry in volumes:
        target = PurePosixPath(entry.target)
        if entry != home and target.is_relative_to(home.target):
            inner = target.relative_to(home.target)
            found.update((str(folder), None) for folder in (*reversed(inner.parents[:-1]), inner))
    return list(found)


def folders(home: Volume, wanted: Sequence[str], image: str, uid: int, gid: int, instance: str) -> dict[str, Any]:
    """The body of a container that makes folders in a home, its user's own; the engine's would be root's.

    What is there and is no folder, so that nothing could be mounted, is moved aside and told in a sentence. Nothing but
    the home is mounted in the container, so a link that the user put there leads nowhere else.
    """
    lines = ["set -eu", f"cd {home.target}"]
    for folder in wanted:
        aside = f"mv -T --backup=numbered {folder} {folder}.before"
        told = f"echo '~/{folder} was no folder, so it is ~/{folder}.before now.'"
        lines += [
            f"if [ ! -d {folder} ]; then",
            f"  if [ -e {folder} ] || [ -L {folder} ]; then {aside}; {told}; fi",
            f"  mkdir {folder}; chown {uid}:{gid} {folder}",
            "fi",
        ]
    return _helper(image, "\n".join(lines), instance, {"NetworkMode": "none", "Mounts": [mount(home)]}, _OWNING)


def rules_helper(image: str, script: str, instance: str) -> dict[str, Any]:
    """The body of a container that sets the machine's packet filter, for a hub that may not."""
    # iptables keeps its lock in /run.
    host = {"NetworkMode": "host", "Tmpfs": {"/run": "rw,nosuid,nodev,noexec,size=1m"}}
    return _helper(image, script, instance, host, ("NET_ADMIN", "NET_RAW"))


def _helper(
    image: str, script: str, instance: str, host: Mapping[str, Any], capabilities: Sequence[str]
) -> dict[str, Any]:
    """The body of a container that runs a script as root with these capabilities and no other."""
    return {
        "Image": image,
        "User": "0:0",
        "Entrypoint": ["/bin/sh", "-c", script],
        "Cmd": [],
        "WorkingDir": "/",
        "Labels": {LABEL + "instance": instance, LABEL + "kind": "helper"},
        "HostConfig": {
            **host,
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": list(capabilities),
            "SecurityOpt": ["no-new-privileges"],
            "Memory": 256 * _MIB,
            "PidsLimit": 64,
        },
    }


def _is_init(entry_point: Sequence[str]) -> bool:
    return bool(entry_point) and PurePosixPath(entry_point[0]).name in _INITS
