"""No route is open by accident, and no request makes the service fall over."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.config import SchemathesisConfig
from service_world import API, INTERNAL, World, device

from elara_hub.app import build_app
from elara_hub.auth.guards import GUARDS, OPEN_ROUTES, internal
from elara_hub.config import Settings

PREFIX = "/services/elara"
_FUZZ_SECONDS = 15


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """Only looked at, and never served."""
    url = f"sqlite:///{tmp_path}/looked-at.sqlite"
    return build_app(Settings(data=str(tmp_path), database_url=url, hub_api_token="x", internal_token="y"))


def _routes(app: FastAPI) -> list[tuple[str, set[str], Any]]:
    """(path below the service, methods, dependant) of every route; a dependant of None is a kind unknown here."""
    return [
        (route.path, set(route.methods or {"GET"}), getattr(route, "dependant", None))
        for route in iter_route_contexts(app.routes)
        if route.path != PREFIX + "/static"
    ]


def _dependencies(dependant: Dependant) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _dependencies(dependency)


def _short(path: str) -> str:
    return path.removeprefix(PREFIX).removeprefix("/api/v1")


def test_every_route_has_a_guard(app: FastAPI) -> None:
    checked = 0
    for path, _, dependant in _routes(app):
        assert dependant is not None, f"{path} is of a kind that this check does not know"
        guards = set(_dependencies(dependant)) & GUARDS
        if _short(path) in OPEN_ROUTES:
            assert not guards, f"{path} is on the list of open routes and has a guard: take it off"
            continue
        assert guards, f"{path} has no guard: give it one of elara_hub.auth.guards"
        assert not _short(path).startswith("/internal") or internal in guards, path
        checked += 1
    assert checked > 40


async def test_no_route_answers_without_a_token(app: FastAPI, world: World) -> None:
    for path, methods, _ in _routes(app):
        if _short(path) in OPEN_ROUTES:
            continue
        address = re.sub(r"{\w+}", "a" * 32, path)
        for method in methods:
            for token in (None, "nonsense", "outsider", "a-service"):
                headers = {"Authorization": f"token {token}"} if token else {}
                answer = await world.http.request(method, address, json={}, headers=headers)
                assert answer.status_code in (401, 403), (method, path, token, answer.status_code)
                assert answer.json()["error"]["next_step"]


async def test_internal_routes_need_the_secret_and_no_proxy(world: World) -> None:
    path = f"{API}/internal/spawn-options/ada"
    assert (await world.http.get(path, headers=world.internal)).status_code == 200
    through_proxy = {**world.internal, "X-Forwarded-For": "10.0.0.1"}
    assert (await world.http.get(path, headers=through_proxy)).status_code == 403
    assert (await world.http.get(path, headers={"Authorization": "token user-root"})).status_code == 403
    nodes = await world.http.get(f"{API}/nodes", headers=world.internal)
    assert nodes.status_code == 200, "beside the service, the secret administers (the command line uses it)"
    assert (await world.http.get(f"{API}/nodes", headers=through_proxy)).status_code == 401


async def test_a_hub_that_is_away_is_said_so(world: World) -> None:
    world.hub.tokens.clear()
    assert (await world.call("GET", "/me", "user-ada")).status_code == 401
    health = await world.http.get(f"{API}/health")
    assert set(health.json()) == {"status", "version"}


def test_the_page_of_every_error_is_the_same_shape(app: FastAPI) -> None:
    assert not app.openapi_url and not app.docs_url, "the description of the REST is for signed-in users"


@pytest.mark.slow
async def test_fuzz_no_request_makes_the_service_fail(world: World, app: FastAPI) -> None:
    """Schemathesis, as an administrator, as a workspace and as the hub: whatever is sent, the answer is no 5xx."""
    await world.node("n1", [device(0)])
    workspace = await world.workspace("ada")
    schema = schemathesis.openapi.from_dict(app.openapi(), config=SchemathesisConfig.from_dict({}))
    deadline = time.monotonic() + _FUZZ_SECONDS
    await asyncio.to_thread(_fuzz, schema, world.url, ["user-root", workspace, INTERNAL, "user-ben"], deadline)
    assert (await world.http.get(f"{API}/health")).status_code == 200


def _fuzz(schema: Any, url: str, tokens: list[str], deadline: float) -> None:
    operations = [entry.ok() for entry in schema.get_all_operations()]
    assert len(operations) > 35
    rounds = 0
    while rounds == 0 or time.monotonic() < deadline:
        for number, operation in enumerate(operations):
            if rounds and time.monotonic() > deadline:
                break
            internal_route = "/internal/" in operation.path
            _attempt(operation, url, INTERNAL if internal_route else tokens[(number + rounds) % len(tokens)])
        rounds += 1


def _attempt(operation: Any, url: str, token: str) -> None:
    @settings(
        max_examples=5,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy())
    def attempt(case: Any) -> None:
        if case.query and "timeout" in case.query:
            case.query = {**case.query, "timeout": 0}
        answer = case.call(base_url=url, headers={"Authorization": f"token {token}"}, timeout=20)
        # The one honest 503: the addresses of a lease whose node is not connected.
        fine = answer.status_code < 500 or (answer.status_code == 503 and "attachment" in case.path)
        assert fine, f"{case.method} {case.formatted_path} {case.query} {case.body!r}: {answer.text}"

    attempt()
