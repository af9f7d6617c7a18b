"""`/internal`: what the hub and MLflow tell and ask. They show the internal token, and come past the proxy."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from elara_hub.api.bodies import NameBody, TokenBody, UserBody, WorkspaceBody
from elara_hub.auth.guards import Core, internal
from elara_hub.contract import server_from_path
from elara_hub.database import migrate
from elara_hub.pool import nodes
from elara_hub.pool.views import pool_json
from elara_hub.refusal import Refusal
from elara_hub.tenancy import workspaces
from elara_hub.tenancy.names import check_user
from elara_hub.version import __version__

MLFLOW_ACCESS = frozenset({"access:services!service=mlflow"})
"""What a token must be allowed to open for MLflow to let it in."""

router = APIRouter(prefix="/internal", tags=["internal"], dependencies=[Depends(internal)])


@router.get("/spawn-options/{user}", summary="What the spawn page offers the user")
def spawn_options(found: Core, user: str) -> dict[str, Any]:
    with found.core.read() as session:
        return {
            "projects": workspaces.memberships(session, user),
            "pool": pool_json(session),
            "last_choice": workspaces.last_choice(session, user),
        }


@router.put("/workspaces/{user}/{server}", summary="A server starts in a project")
def start(found: Core, user: str, server: str, body: WorkspaceBody) -> dict[str, Any]:
    check_user(user)
    with found.core.change() as unit:
        if found.people.is_disabled(user):
            raise Refusal("account_disabled", "This account is disabled.", "Ask your administrator.", status=403)
        project, role = workspaces.record_start(
            found.core, unit, user, server_from_path(server), body.team, body.project, body.image, body.size
        )
        return {"mlflow_workspace": project.handle, "role": role, "handle": project.handle}


@router.get("/data-ports", summary="Where workspaces reach the pool's nodes, for the rules of their network")
def data_ports(found: Core) -> dict[str, Any]:
    with found.core.read() as session:
        return {"data_ports": nodes.data_ports(session)}


@router.delete("/workspaces/{user}/{server}", summary="A server stopped; its leases end")
def stop(found: Core, user: str, server: str) -> dict[str, Any]:
    with found.core.change() as unit:
        workspaces.record_stop(found.core, unit, user, server_from_path(server))
    return {"user": user, "server": server}


@router.put("/users/{user}", summary="A user signed in for the first time, or was disabled or enabled")
def put_user(found: Core, user: str, body: UserBody) -> dict[str, Any]:
    check_user(user)
    found.people.note(user, body.disabled)
    return {"user": user, "disabled": found.people.is_disabled(user)}


@router.post("/mlflow/access", summary="Whose token it is, and which MLflow workspaces it opens")
async def mlflow_access(found: Core, body: TokenBody) -> dict[str, Any]:
    identity = await found.hub.identify(body.token, fresh=False, access_scopes=MLFLOW_ACCESS)
    if identity is None or found.people.is_disabled(identity.name):
        raise Refusal("not_signed_in", "This token opens nothing here.", "Sign in through the hub again.", status=401)
    await found.people.seen(identity.name)
    with found.core.read() as session:
        access = workspaces.mlflow_access(session, identity.name, identity.server)
    return {"user": identity.name, "admin": identity.admin, "workspaces": access}


@router.get("/condition", summary="The service's version and its database, for `elara admin check`")
def condition(found: Core) -> dict[str, Any]:
    database = found.core.database
    revision = {"revision": migrate.current(database), "newest": migrate.newest()}
    return {"version": __version__, "database": {"backend": database.backend, **revision}}


@router.post("/join-tokens", status_code=201, summary="A join token for a node of this installation")
def join_token(found: Core, body: NameBody) -> dict[str, Any]:
    with found.core.change() as unit:
        return {"token": nodes.make_join_token(found.core, unit, body.name, "operator")}
