"""Makes MLflow's own workspaces, users and roles what the service says they are.

MLflow keeps roles inside a workspace. Ours are made once for each workspace, and a member holds exactly one of them.
This runs on each fresh answer of the service, in MLflow's process, so that a project that was made a second ago can
be used. Somebody who lost their membership is refused by the gate; what MLflow still knows about them is then of no
use.
"""

from __future__ import annotations

import secrets
import threading
from typing import Any

from elara_hub.tracking.access import ROLES, Access, Role

# What a role may do, as (kind of thing, MLflow permission); the pattern is always "*". USE on the workspace lets a
# member make things. Nobody gets MANAGE on the workspace: that would let them hand out roles behind the service's back.
GRANTS: dict[Role, tuple[tuple[str, str], ...]] = {
    "viewer": (("experiment", "READ"), ("registered_model", "READ"), ("prompt", "READ")),
    "editor": (("workspace", "USE"), ("experiment", "EDIT"), ("registered_model", "EDIT"), ("prompt", "EDIT")),
    "owner": (("workspace", "USE"), ("experiment", "MANAGE"), ("registered_model", "MANAGE"), ("prompt", "MANAGE")),
}


def role_name(role: Role) -> str:
    """MLflow's name of our role; the prefix keeps it apart from roles that MLflow makes itself."""
    return f"elara-{role}"


class GrantKeeper:
    """Brings MLflow's tables in line with an access answer. Safe to call from many threads; repeated calls cost
    nothing.
    """

    def __init__(self, auth_store: Any, workspace_store: Any, tracking_store: Any) -> None:
        self._auth = auth_store
        self._workspaces = workspace_store
        self._tracking = tracking_store
        self._lock = threading.Lock()
        self._done: dict[tuple[str, str], Role] = {}
        self._defaults: dict[str, str] = {}

    def ensure(self, access: Access) -> None:
        """Make user, workspaces, roles and assignments for one answer. Raises MlflowException when MLflow's database
        does.
        """
        missing = {ws: role for ws, role in access.workspaces.items() if self._done.get((access.user, ws)) != role}
        if not missing and (access.user, "") in self._done:
            return
        with self._lock:
            user_id = self._user(access.user)
            for workspace, role in missing.items():
                self._workspace(workspace)
                self._assign(user_id, workspace, role)
                self._done[(access.user, workspace)] = role
            self._done[(access.user, "")] = "viewer"

    def default_experiment(self, workspace: str | None) -> str | None:
        """The number of the experiment for runs whose author named none; None for an unknown workspace."""
        return self._defaults.get(workspace) if workspace else None

    def _user(self, name: str) -> int:
        if not self._auth.has_user(name):
            # The gate signs people in; this password is told to nobody and checked by nobody.
            self._auth.create_user(name, secrets.token_urlsafe(32), is_admin=False)
        user = self._auth.get_user(name)
        if user.is_admin:
            raise PermissionError(f"the tracking account {name!r} is an administrator's and cannot be a person's")
        return int(user.id)

    def _workspace(self, name: str) -> None:
        if name in self._defaults:
            return
        from mlflow.entities.workspace import Workspace

        if name not in {workspace.name for workspace in self._workspaces.list_workspaces()}:
            self._workspaces.create_workspace(Workspace(name=name, description="An Elara project"))
        present = {role.name: role for role in self._auth.list_roles([name])}
        for role in ROLES:
            self._role(name, role, present.get(role_name(role)))
        self._defaults[name] = self._default_experiment(name)

    def _default_experiment(self, workspace: str) -> str:
        from mlflow.utils import workspace_context

        workspace_context.set_server_request_workspace(workspace)
        try:
            found = self._tracking.get_experiment_by_name("Default")
            return str(found.experiment_id if found else self._tracking.create_experiment("Default"))
        finally:
            workspace_context.clear_server_request_workspace()

    def _role(self, workspace: str, role: Role, found: Any) -> None:
        record = found or self._auth.create_role(role_name(role), workspace, f"{role} of the project")
        held = {(grant.resource_type, grant.permission): grant for grant in self._auth.list_role_permissions(record.id)}
        wanted = set(GRANTS[role])
        # An older version of this table may have granted other things.
        for key, grant in held.items():
            if key not in wanted:
                self._auth.remove_role_permission(grant.id)
        for kind, permission in wanted - set(held):
            self._auth.add_role_permission(record.id, kind, "*", permission)

    def _assign(self, user_id: int, workspace: str, role: Role) -> None:
        held = self._auth.list_user_roles_for_workspace(user_id, workspace)
        wanted = role_name(role)
        for record in held:
            if record.name == wanted:
                continue
            if record.name.startswith("elara-"):
                self._auth.unassign_role_from_user(user_id, record.id)
            elif role == "viewer":
                # MLflow lets whoever made an experiment manage it for ever, in a role of their own. A viewer only
                # reads.
                self._auth.delete_role(record.id)
        if wanted not in {record.name for record in held}:
            record = self._auth.get_role_by_name(workspace, wanted)
            self._auth.assign_role_to_user(user_id, record.id)
