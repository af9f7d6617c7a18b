"""Workspaces as containers, whatever engine runs them: who they are, what they hold, what they may use and reach."""

from __future__ import annotations

import ipaddress
from typing import Any

from traitlets import Bool, Dict, Enum, Integer, List, TraitError, Unicode, validate

from elara_spawner import names
from elara_spawner.container import LABEL, PORT, Container, Dataset, limits, parse_datasets, volumes
from elara_spawner.mixin import WorkspaceMixin
from elara_spawner.workspace import Choice, of_project


class ContainedMixin(WorkspaceMixin):
    """Put before a JupyterHub spawner that starts containers.

    A backend implements `prepare`, which calls `container` for the value to start, and keeps to `reachable_addresses`.
    """

    isolated = True

    instance = Unicode(
        "elara",
        help="What the names of all containers, volumes and networks begin with: lower-case letters, digits and "
        "single hyphens. Two installations on one engine need two. Changing it makes new homes and project volumes; "
        "the old ones stay where they are, and nothing of them is moved.",
    ).tag(config=True)
    uid = Integer(1000, help="The user that a workspace runs as, which owns its files. Images have it as `elara`.").tag(
        config=True
    )
    gid = Integer(
        1000, help="The group of a workspace. Files of a project's volume stay writable for it, whoever wrote them."
    ).tag(config=True)
    read_only_root = Bool(
        True,
        help="Whether all of a workspace but its volumes, /tmp, /run/elara and /scratch is read-only. Turn it off "
        "for images that write elsewhere; what they write there is gone at the next start all the same.",
    ).tag(config=True)
    temporary_bytes = Integer(
        2 * 2**30,
        help="Size of /tmp in bytes, at most half of the workspace's memory, which it counts against. Default 2 GiB. "
        "It does nothing where `read_only_root` is off.",
    ).tag(config=True)
    processes = Integer(
        4096,
        help="How many processes and threads a workspace may have whose size in the catalogue names no number "
        "(`processes`). It keeps a runaway program from taking the machine's.",
    ).tag(config=True)
    scratch = Enum(
        ["disk", "memory", "none"],
        "disk",
        help="What /scratch is: `disk` (default; as large as the engine's disk, since plain volumes have no limit), "
        "`memory` (`scratch_bytes` of it, counted against the workspace's memory) or `none`. What is there is gone "
        "when the workspace stops.",
    ).tag(config=True)
    scratch_bytes = Integer(2**30, help="Size of a /scratch in memory, in bytes. Default 1 GiB.").tag(config=True)
    datasets = Dict(
        help="Volumes that an administrator filled, by the name under which they show in `~/datasets`, read-only for "
        "everybody. Example `{'mnist': 'mnist-2024', 'scans': {'volume': 'scans', 'teams': ['radiology']}}`: the "
        "first is for every team. A volume that is missing is an error; none is made.",
    ).tag(config=True)
    reachable = List(
        Unicode(),
        help="What workspaces may connect to besides `site_url` and the data ports of the pool's nodes, as "
        "`address:port` or a URL, over TCP. Example `['10.1.2.3:443']` for a package mirror. Names are looked up at "
        "each start.",
    ).tag(config=True)
    outside = Bool(
        True,
        help="Whether workspaces reach the internet. Private networks are closed all the same (`closed_networks`). "
        "Off: they reach what `reachable` names and nothing else.",
    ).tag(config=True)
    closed_networks = List(
        Unicode(),
        help="Networks that workspaces do not reach though `outside` is on, such as `10.0.0.0/8`. Empty (default) "
        "stands for every private, link-local and reserved network, so that databases, other machines and the "
        "credentials that clouds hand out at 169.254.169.254 are closed. What `reachable` names is open all the same.",
    ).tag(config=True)

    @validate("instance")
    def _check_instance(self, proposal: Any) -> str:
        if not names.INSTANCE.fullmatch(proposal.value) or len(proposal.value) > 30:
            raise TraitError(f"instance is {proposal.value!r}: use lower-case letters, digits and single hyphens.")
        return str(proposal.value)

    @validate("datasets")
    def _check_datasets(self, proposal: Any) -> dict[str, Any]:
        try:
            parse_datasets(proposal.value)
        except ValueError as error:
            raise TraitError(str(error)) from None
        return dict(proposal.value)

    @validate("closed_networks")
    def _check_networks(self, proposal: Any) -> list[str]:
        try:
            return [str(ipaddress.IPv4Network(text)) for text in proposal.value]
        except ValueError as error:
            raise TraitError(f"closed_networks: {error}") from None

    def notices(self) -> list[tuple[int, str]]:
        if self.started and self.started.role == "viewer":
            return [(28, "You are a viewer here: the project's files are read-only for you")]
        return []

    @property
    def allowed_datasets(self) -> list[Dataset]:
        return parse_datasets(self.datasets)

    def container(self, choice: Choice) -> Container:
        """The workspace as it is to be started now. After the service has recorded the start."""
        if self.started is None:
            raise RuntimeError("the service has not recorded this start")
        size = self.catalogue.sizes[choice.size]
        user, handle = self.user.name, self.started.handle
        labels = {"instance": self.instance, "kind": "workspace", "user": user, "server": self.name, "project": handle}
        return Container(
            name=names.workspace(self.instance, user, self.name),
            host=names.host(user),
            image=self.catalogue.images[choice.image].reference,
            command=self.command(),
            environment={
                **self.get_env(),
                **of_project(
                    choice=choice,
                    site_url=self.site_url.rstrip("/"),
                    api_token=self.api_token,
                    mlflow_workspace=self.started.mlflow_workspace,
                    cpus=size.cpus,
                ),
            },
            labels={LABEL + key: value for key, value in labels.items()},
            volumes=volumes(
                home=names.home(self.instance, user),
                project=names.project(self.instance, handle),
                choice=choice,
                role=self.started.role,
                user=user,
                handle=handle,
                datasets=self.allowed_datasets,
            ),
            limits=limits(size, processes=self.processes, temporary_bytes=self.temporary_bytes),
            uid=self.uid,
            gid=self.gid,
            read_only_root=self.read_only_root,
            scratch_bytes={"disk": 0, "memory": self.scratch_bytes, "none": None}[self.scratch],
            port=PORT,
        )

    def command(self) -> list[str]:
        """What the image's entry point becomes; empty for the image's own command."""
        cmd = getattr(self, "cmd", None)
        return [*cmd, *self.get_args()] if cmd else []

    async def reachable_addresses(self) -> list[str]:
        """Everything a workspace may connect to by an address and a port. Raises ServiceRefusal."""
        return [self.site_url, *self.reachable, *await self.service.data_ports()]
