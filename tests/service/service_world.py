"""The world around the service: a hub's API in a few lines, a node that speaks the real channel, clocks to turn."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import websockets
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from elara_hub.app import build_app
from elara_hub.config import Settings
from elara_hub.core import Core
from elara_hub.database.engine import Database
from elara_hub.pool.live import Live

API = "/services/elara/api/v1"
INTERNAL = "internal-secret-of-this-test"
GIB = 2**30
REACH = ("access:services!service=elara", "access:services!service=mlflow")


class FakeHub:
    """What the service asks of a hub: whose token, does a user exist, groups."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        self.users = {"ada", "ben", "cem", "dora", "root"}
        self.groups: dict[str, set[str]] = {}
        self.asked = 0
        self.app = FastAPI()
        self.app.get("/hub/api/user")(self._user)
        self.app.get("/hub/api/users/{name}")(self._exists)
        self.app.api_route("/hub/api/groups/{name}", methods=["GET", "POST", "DELETE"])(self._group)
        self.app.api_route("/hub/api/groups/{name}/users", methods=["POST", "DELETE"])(self._members)
        for name in self.users:
            self.tokens[f"user-{name}"] = {
                "kind": "user",
                "name": name,
                "scopes": [*REACH, f"access:servers!user={name}"],
            }
        self.tokens["user-root"]["scopes"].append("custom:elara:admin")
        self.tokens["a-service"] = {"kind": "service", "name": "x", "scopes": ["access:services", "admin:users"]}
        self.tokens["outsider"] = {"kind": "user", "name": "dora", "scopes": ["read:users:name!user=dora"]}

    def workspace_token(self, user: str, server: str = "") -> str:
        token = f"workspace-{user}-{server}"
        scopes = [*REACH, "custom:elara:attach", "custom:elara:admin"]
        self.tokens[token] = {
            "kind": "user",
            "name": user,
            "scopes": [*scopes, f"access:servers!server={user}/{server}"],
        }
        return token

    async def _user(self, request: Request) -> Any:
        self.asked += 1
        token = request.headers.get("authorization", "").partition(" ")[2]
        return self.tokens.get(token) or JSONResponse({"message": "no"}, 403)

    async def _exists(self, name: str) -> Any:
        return {"name": name} if name in self.users else JSONResponse({"message": "no"}, 404)

    async def _group(self, name: str, request: Request) -> Any:
        if request.method == "POST":
            self.groups.setdefault(name, set())
        elif name not in self.groups:
            return JSONResponse({"message": "no"}, 404)
        elif request.method == "DELETE":
            del self.groups[name]
            return {}
        return {"name": name, "users": sorted(self.groups[name])}

    async def _members(self, name: str, request: Request) -> Any:
        users = set((await request.json())["users"])
        if not users <= self.users:
            return JSONResponse({"message": "no such user"}, 400)
        self.groups[name] = self.groups[name] | users if request.method == "POST" else self.groups[name] - users
        return {"name": name, "users": sorted(self.groups[name])}


class Clock:
    """Real time plus what a test adds."""

    def __init__(self) -> None:
        self.added = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.added)

    def monotonic(self) -> float:
        return time.monotonic() + self.added

    def forward(self, seconds: float) -> None:
        self.added += seconds


@dataclass
class FakeNode:
    """A node agent of a test: real join, real proof, real channel; its devices compute nothing."""

    world: World
    name: str
    devices: list[dict[str, Any]]
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    boot_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    node_id: str = ""
    certificate: str = ""
    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    obeys: bool = True
    address: str | None = None
    heard: list[dict[str, Any]] = field(default_factory=list)

    async def join(self) -> None:
        answer = await self.world.http.post(
            f"{API}/internal/join-tokens", json={"name": self.name}, headers=self.world.internal
        )
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        body = {"token": answer.json()["token"], "name": self.name, "public_key_pem": public.decode()}
        joined = await self.world.http.post(f"{API}/nodes/join", json=body)
        assert joined.status_code == 200, joined.text
        self.node_id, self.certificate = joined.json()["node_id"], joined.json()["certificate_pem"]

    async def connect(self) -> None:
        self.socket = await websockets.connect(self.world.url.replace("http", "ws") + f"{API}/nodes/channel")
        challenge = json.loads(await self.socket.recv())
        await self.socket.send(json.dumps(self.hello(challenge["nonce"])))
        first = json.loads(await self.socket.recv())
        assert first["type"] == "welcome", first
        self._task = asyncio.create_task(self._obey())
        await self.world.until(self._usable)

    async def _usable(self) -> bool:
        nodes = (await self.world.get("/nodes", "user-root"))["nodes"]
        mine = [node for node in nodes if node["id"] == self.node_id]
        return bool(mine) and mine[0]["connected"] and len(mine[0]["devices"]) == len(self.devices)

    def hello(self, nonce: str) -> dict[str, Any]:
        signature = self.key.sign(b"elara-node-v1" + nonce.encode())
        return {
            "type": "hello",
            "node_id": self.node_id,
            "certificate_pem": self.certificate,
            "signature": base64.b64encode(signature).decode(),
            "boot_id": self.boot_id,
            "agent_version": "0.1.0",
            "device_users": f"Device servers on {self.name} run as nobody.",
            "data_local": f"/run/{self.name}.sock",
            "data_tcp": self.address,
            "devices": self.devices,
            "leases": self.reports(),
        }

    def reports(self) -> list[dict[str, Any]]:
        return [
            {
                "lease_id": key,
                "generation": lease["generation"],
                "state": "active",
                "used_bytes": [1000 + grant["ordinal"] for grant in lease["grants"]],
                "cap_bytes": [grant["memory_bytes"] for grant in lease["grants"]],
                "sessions": 1,
                "busy": lease.get("busy", False),
                "last_active": lease.get("last_active"),
                "grants": lease["grants"],
            }
            for key, lease in self.leases.items()
        ]

    async def status(self) -> None:
        await self.tell({"type": "status", "devices": self.devices, "leases": self.reports()})

    async def tell(self, message: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(message))

    async def disconnect(self) -> None:
        self._task.cancel()
        await self.socket.close()

    async def _obey(self) -> None:
        async for text in self.socket:
            message = json.loads(text)
            self.heard.append(message)
            if self.obeys:
                await self._answer(message)

    async def _answer(self, message: dict[str, Any]) -> None:
        key = message.get("lease_id")
        if message["type"] == "lease_start":
            grants = [
                {
                    "ordinal": device["ordinal"],
                    "device_uuid": device["uuid"],
                    "secret": "5e" * 32,
                    "ca_pem": "-",
                    "memory_bytes": device["memory_bytes"],
                    "local": f"/run/{self.name}.sock",
                    "tcp": self.address,
                }
                for device in message["devices"]
            ]
            self.leases[key] = {"generation": message["generation"], "grants": grants}
            await self.tell(
                {"type": "lease_ready", "lease_id": key, "generation": message["generation"], "grants": grants}
            )
        elif message["type"] == "lease_stop":
            await self.ended(key, message["reason"])

    async def ended(self, key: str, reason: str) -> None:
        known = self.leases.pop(key, None)
        usage = {"peak_bytes": [4096], "busy_seconds": 1.5} if known else {}
        await self.tell({"type": "lease_ended", "lease_id": key, "generation": 1, "reason": reason, "usage": usage})


def device(
    index: int, *, memory: int = 2 * GIB, model: str = "emulated (CPU)", emulated: bool = True
) -> dict[str, Any]:
    return {
        "uuid": f"D-{uuid.uuid4().hex[:8]}",
        "index": index,
        "model": model,
        "memory_bytes": memory,
        "emulated": emulated,
        "healthy": True,
        "fault": None,
    }


class World:
    """A running service and ways to act on it."""

    def __init__(self, url: str, hub: FakeHub, clock: Clock, settings: Settings) -> None:
        self.url, self.hub, self.clock, self.settings = url, hub, clock, settings
        self.http = httpx.AsyncClient(base_url=url, timeout=30)
        self.internal = {"Authorization": f"token {INTERNAL}"}
        self.nodes: list[FakeNode] = []

    async def node(self, name: str, devices: list[dict[str, Any]]) -> FakeNode:
        made = FakeNode(self, name, devices)
        await made.join()
        await made.connect()
        self.nodes.append(made)
        return made

    async def call(self, method: str, path: str, token: str | None, body: Any = None) -> httpx.Response:
        headers = {"Authorization": f"token {token}"} if token else {}
        return await self.http.request(method, API + path, json=body, headers=headers)

    async def get(self, path: str, token: str) -> Any:
        answer = await self.call("GET", path, token)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def ok(self, method: str, path: str, token: str, body: Any = None) -> Any:
        answer = await self.call(method, path, token, body)
        assert answer.is_success, answer.text
        return answer.json()

    async def refused(self, method: str, path: str, token: str | None, body: Any = None) -> dict[str, Any]:
        answer = await self.call(method, path, token, body)
        assert 400 <= answer.status_code < 500, answer.text
        error = answer.json()["error"]
        assert error["message"].endswith((".", "!")) and error["next_step"], error
        return error | {"status": answer.status_code}

    async def workspace(self, user: str, project: str = "digits", team: str = "demo", server: str = "") -> str:
        """Start a workspace as the hub does; returns its own token."""
        body = {"team": team, "project": project, "image": "here", "size": "small"}
        answer = await self.http.put(
            f"{API}/internal/workspaces/{user}/{server or '-'}", json=body, headers=self.internal
        )
        assert answer.status_code == 200, answer.text
        return self.hub.workspace_token(user, server)

    async def attach(self, token: str, **body: Any) -> dict[str, Any]:
        """Ask for a lease and wait until it is active."""
        lease = await self.ok("POST", "/leases", token, body)
        return await self.state(lease["id"], token, "active")

    async def state(self, lease_id: str, token: str, state: str) -> dict[str, Any]:
        lease = await self.get(f"/leases/{lease_id}?wait_for={state}&timeout=10", token)
        assert lease["state"] == state, lease
        return lease

    async def free(self) -> int:
        models = (await self.get("/pool", "user-ada"))["models"]
        return sum(model["free_share_total"] for model in models)

    async def until(self, condition: Callable[[], Awaitable[bool]], limit: float = 10.0) -> None:
        deadline = time.monotonic() + limit
        while not await condition():
            assert time.monotonic() < deadline, "waited in vain"
            await asyncio.sleep(0.02)

    async def until_free(self, share: int, limit: float = 10.0) -> None:
        async def enough() -> bool:
            return await self.free() == share

        await self.until(enough, limit)


class Server(uvicorn.Server):
    """Serves in this event loop and leaves the signals alone."""

    def install_signal_handlers(self) -> None:
        return


@asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncIterator[str]:
    """Run an application on a port of 127.0.0.1; yields its address."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(
        app, log_level="warning", proxy_headers=False, ws_per_message_deflate=False, timeout_graceful_shutdown=1
    )
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        assert not task.done(), "the server did not start"
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def open_service(
    folder: Path, database_url: str, hub: FakeHub, hub_url: str, clock: Clock, port: int = 0, **options: Any
) -> AsyncIterator[World]:
    chosen: dict[str, Any] = {"admin": "ada", "reconcile_seconds": 0.05, "default_device_share": 4000} | options
    settings = Settings(
        data=str(folder),
        database_url=database_url,
        internal_token=INTERNAL,
        hub_api_url=hub_url + "/hub/api",
        hub_api_token="service-token",
        public_url="http://localhost",
        **chosen,
    )
    core = Core(settings, Database(database_url), Live(clock.monotonic), clock.now)
    async with serving(build_app(settings, core), port) as url:
        world = World(url, hub, clock, settings)
        try:
            yield world
        finally:
            for node in world.nodes:
                await node.disconnect()
            await world.http.aclose()


@asynccontextmanager
async def open_world(folder: Path, database_url: str, **options: Any) -> AsyncIterator[World]:
    """Hub and service together."""
    hub, clock = FakeHub(), Clock()
    async with serving(hub.app) as hub_url, open_service(folder, database_url, hub, hub_url, clock, **options) as world:
        yield world
