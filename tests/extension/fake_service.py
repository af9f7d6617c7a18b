"""A small real HTTP server that speaks the part of the service's REST which a workspace uses.

It decides like a pool of devices with shares, and a test can make it slow, silent or forgetful. It runs in a thread of
its own, so that a test may block while a browser or a Jupyter server talks to it.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

API = "/services/elara/api/v1"
TOKEN = "workspace-token"
GIB = 2**30
EMULATED_MODEL = "Elara emulated device (CPU)"


@dataclass
class PoolDevice:
    """One device of the fake pool. `free` in thousandths."""

    model: str
    memory_bytes: int
    emulated: bool = False
    free: int = 1000
    holder: str = ""
    uuid: str = field(default_factory=lambda: f"GPU-{uuid.uuid4()}")


def emulated_pool() -> list[PoolDevice]:
    """What a machine without a GPU offers."""
    return [PoolDevice(EMULATED_MODEL, 2 * GIB, emulated=True) for _ in range(2)]


class FakeService:
    """The service. Attributes may be changed by a test at any time."""

    def __init__(self, devices: list[PoolDevice] | None = None) -> None:
        self.devices = devices if devices is not None else emulated_pool()
        self.leases: dict[str, dict[str, Any]] = {}
        self.role = "editor"
        self.server = ""
        self.max_minutes = 240
        self.start_seconds = 0.0
        self.queue = False
        self.answers = True
        self.calls: list[tuple[str, str]] = []
        self.url = ""

    # -- for tests ----------------------------------------------------------------------------------------------

    @property
    def open_leases(self) -> list[dict[str, Any]]:
        return [lease for lease in self.leases.values() if lease["state"] in ("queued", "starting", "active")]

    def count(self, method: str, ending: str) -> int:
        return sum(1 for verb, path in self.calls if verb == method and path.endswith(ending))

    def end(self, lease_id: str, reason: str, message: str) -> None:
        """End a lease from the service's side."""
        lease = self.leases[lease_id]
        if lease["state"] == "ended":
            return
        lease.update(state="ended", end_reason=reason, end_message=message, ended_at=_now())
        for held in lease["devices"]:
            for device in self.devices:
                if device.uuid == held["uuid"]:
                    device.free += held["share"]

    def occupy(self, user: str) -> None:
        """Let somebody else hold every device whole."""
        for device in self.devices:
            device.free, device.holder = 0, user

    # -- the server ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        started = threading.Event()

        def run() -> None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._listen())
            started.set()
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        started.wait(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _listen(self) -> None:
        app = web.Application(middlewares=[self._gate])
        app.add_routes(
            [
                web.get(f"{API}/me", self._me),
                web.get(f"{API}/pool", self._pool),
                web.get(f"{API}/projects/{{team}}/{{project}}/quota", self._quota),
                web.get(f"{API}/leases", self._list),
                web.post(f"{API}/leases", self._grant),
                web.post(f"{API}/leases/preview", self._preview),
                web.get(f"{API}/leases/{{id}}", self._read),
                web.delete(f"{API}/leases/{{id}}", self._delete),
                web.get(f"{API}/leases/{{id}}/attachment", self._attachment),
                web.post(f"{API}/leases/{{id}}/heartbeat", self._read),
                web.post(f"{API}/leases/{{id}}/extend", self._extend),
            ]
        )
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}{API}"

    @web.middleware
    async def _gate(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        if not self.answers:
            # What a client of a stopped service sees: a connection that ends without an answer.
            assert request.transport is not None
            request.transport.abort()
            raise web.HTTPServiceUnavailable
        self.calls.append((request.method, request.path))
        if request.headers.get("Authorization") != f"token {TOKEN}":
            return _refuse(401, "unauthorized", "The token is not known.", "Restart the workspace.")
        response: web.StreamResponse = await handler(request)
        return response

    async def _me(self, request: web.Request) -> web.Response:
        place = {"team": "demo", "project": "digits"}
        return web.json_response(
            {
                "user": "ada",
                "admin": False,
                "projects": [{**place, "role": self.role}],
                "workspace": {**place, "server": self.server, "role": self.role},
            }
        )

    async def _pool(self, request: web.Request) -> web.Response:
        models: dict[str, dict[str, Any]] = {}
        for device in self.devices:
            entry = models.setdefault(
                device.model,
                {
                    "model": device.model,
                    "emulated": device.emulated,
                    "devices": 0,
                    "healthy": 0,
                    "free_whole": 0,
                    "free_share_total": 0,
                    "largest_free_share": 0,
                    "memory_bytes": device.memory_bytes,
                },
            )
            entry["devices"] += 1
            entry["healthy"] += 1
            entry["free_whole"] += device.free == 1000
            entry["free_share_total"] += device.free
            entry["largest_free_share"] = max(entry["largest_free_share"], device.free)
        return web.json_response({"devices_total": len(self.devices), "models": list(models.values()), "queued": 0})

    async def _quota(self, request: web.Request) -> web.Response:
        return web.json_response({"max_device_share": 4000, "max_lease_minutes": self.max_minutes})

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"leases": list(self.leases.values())})

    async def _preview(self, request: web.Request) -> web.Response:
        refusal = self._refusal(await request.json())
        return web.json_response({"ok": True} if refusal is None else {"ok": False, **refusal})

    async def _grant(self, request: web.Request) -> web.Response:
        body = await request.json()
        refusal = self._refusal(body)
        if refusal is not None and not body.get("wait"):
            return web.json_response({"error": refusal}, status=409)
        lease_id = uuid.uuid4().hex
        lease: dict[str, Any] = {
            "id": lease_id,
            "state": "queued" if refusal or self.queue else "starting",
            "user": "ada",
            "server": self.server,
            "team": "demo",
            "project": "digits",
            "count": body["count"],
            "share": body.get("share"),
            "memory_bytes": body.get("memory_bytes"),
            "devices": [],
            "created_at": _now(),
            "active_at": None,
            "ends_at": None,
            "ended_at": None,
            "end_reason": None,
            "end_message": None,
            "busy": False,
            "last_active": None,
            "queue_position": 2 if refusal or self.queue else None,
            "minutes": body.get("minutes", 60),
        }
        self.leases[lease_id] = lease
        if lease["state"] == "starting":
            asyncio.get_running_loop().call_later(self.start_seconds, self.activate, lease_id, body)
        return web.json_response(lease, status=201)

    def activate(self, lease_id: str, body: dict[str, Any]) -> None:
        lease = self.leases[lease_id]
        if lease["state"] not in ("queued", "starting"):
            return
        chosen = self._place(body) or self.devices[: body["count"]]
        for ordinal, device in enumerate(chosen):
            share = _share(body, device)
            device.free -= share
            lease["devices"].append(
                {
                    "ordinal": ordinal,
                    "uuid": device.uuid,
                    "model": device.model,
                    "emulated": device.emulated,
                    "node": "gpu-1",
                    "share": share,
                    "memory_bytes": body.get("memory_bytes") or device.memory_bytes * share // 1000,
                    "used_bytes": 0,
                }
            )
        lease.update(
            state="active",
            active_at=_now(),
            queue_position=None,
            ends_at=(datetime.now(UTC) + timedelta(minutes=lease["minutes"])).isoformat(),
        )

    async def _read(self, request: web.Request) -> web.Response:
        lease = self.leases.get(request.match_info["id"])
        if lease is None:
            return _refuse(404, "not_found", "There is no such lease that you may see.", "Check the id.")
        wanted = request.query.get("wait_for")
        deadline = asyncio.get_running_loop().time() + float(request.query.get("timeout", 0))
        # Tests change leases from their own thread, so the state is looked at and not signalled.
        while wanted and lease["state"] not in (wanted, "ended") and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return web.json_response(lease)

    async def _attachment(self, request: web.Request) -> web.Response:
        lease = self.leases[request.match_info["id"]]
        devices = [
            {
                "ordinal": device["ordinal"],
                "device_uuid": device["uuid"],
                "uuid": device["uuid"],
                "model": device["model"],
                "emulated": device["emulated"],
                "share": device["share"],
                "memory_bytes": device["memory_bytes"],
                "local": "/nonexistent/data.sock",
                "tcp": "127.0.0.1:1",
                "secret": "5e" * 32,
                "ca_pem": "-----BEGIN CERTIFICATE-----\n",
            }
            for device in lease["devices"]
        ]
        return web.json_response({"lease_id": lease["id"], "devices": devices})

    async def _extend(self, request: web.Request) -> web.Response:
        lease = self.leases[request.match_info["id"]]
        minutes = (await request.json())["minutes"]
        if minutes > self.max_minutes:
            return _refuse(
                409,
                "too_long",
                f"A lease of this project lasts {self.max_minutes} minutes at most.",
                "Extend by less, or ask a team lead to raise the limit.",
            )
        ends_at = datetime.fromisoformat(lease["ends_at"]) + timedelta(minutes=minutes)
        lease["ends_at"] = ends_at.isoformat()
        return web.json_response(lease)

    async def _delete(self, request: web.Request) -> web.Response:
        lease_id = request.match_info["id"]
        self.end(lease_id, "released", "You handed the GPU back.")
        return web.json_response(self.leases[lease_id])

    # -- decisions ----------------------------------------------------------------------------------------------

    def _place(self, body: dict[str, Any]) -> list[PoolDevice]:
        fitting = [
            device
            for device in self.devices
            if body.get("model") in (None, device.model) and device.free >= _share(body, device)
        ]
        return fitting[: body["count"]] if len(fitting) >= body["count"] else []

    def _refusal(self, body: dict[str, Any]) -> dict[str, Any] | None:
        if self._place(body):
            return None
        free = max(self.devices, key=lambda device: device.free, default=None)
        share = next((s for s in (1000, 500, 250) if free is not None and free.free >= s), None)
        until = (datetime.now(UTC) + timedelta(minutes=25)).isoformat()
        holders = [
            {
                "user": d.holder or "grace",
                "project": "demo/vision",
                "devices": 1,
                "share": 1000 - d.free,
                "ends_at": until,
            }
            for d in self.devices
            if d.free < 1000
        ]
        return {
            "reason": "no_capacity",
            "message": "Not enough devices are free.",
            "next_step": "Ask for less, or wait for your turn.",
            "details": {
                "limit": None,
                "holders": holders,
                "free_at": until if holders else None,
                "nearest": {"count": 1, "share": share, "model": free.model} if free is not None and share else None,
            },
        }


def _share(body: dict[str, Any], device: PoolDevice) -> int:
    if body.get("memory_bytes"):
        return min(1000, -(-int(body["memory_bytes"]) * 1000 // device.memory_bytes))
    return int(body.get("share") or 1000)


def _refuse(status: int, reason: str, message: str, next_step: str) -> web.Response:
    error = {"reason": reason, "message": message, "next_step": next_step, "details": {}}
    return web.json_response({"error": error}, status=status)


def _now() -> str:
    return datetime.now(UTC).isoformat()
