"""The WebSocket of one node: it proves itself, then its messages become transactions, one after the other."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import secrets
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from elara_hub.core import Core
from elara_hub.database.models import Node
from elara_hub.pool import nodes
from elara_hub.pool.certificates import NodeAuthority
from elara_hub.refusal import Refusal

log = logging.getLogger("elara.nodes")

_HELLO_SECONDS = 20.0
_SILENCE = 4.0
"""A node that misses this many of its reports is taken as disconnected."""


class NodeChannel:
    """Sends from any thread, in order, without blocking."""

    def __init__(self, node_id: str, loop: asyncio.AbstractEventLoop) -> None:
        self.node_id = node_id
        self._loop = loop
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def send(self, message: dict[str, Any]) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, message)

    def close(self, reason: str) -> None:
        self.send({"type": "refused", "message": reason})
        self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    async def drain(self, socket: WebSocket) -> None:
        """Write until closed."""
        while (message := await self._queue.get()) is not None:
            await socket.send_text(json.dumps(message))


async def serve_node(core: Core, authority: NodeAuthority, socket: WebSocket) -> None:
    """The whole life of one connection, from the challenge to its end."""
    await socket.accept()
    try:
        hello, node_id = await _prove(core, authority, socket)
    except Refusal as refusal:
        await _refuse(socket, f"{refusal.message} {refusal.next_step}")
        return
    except (TimeoutError, WebSocketDisconnect, ValueError, KeyError, TypeError):
        await _refuse(socket, "The service expected a hello that proves which node this is.")
        return
    channel = NodeChannel(node_id, asyncio.get_running_loop())
    channel.send({"type": "welcome", "node_id": node_id, "heartbeat_seconds": core.settings.node_status_seconds})
    old = core.live.connect(channel)
    if old is not None:
        old.close("The node connected anew.")
    writer = asyncio.create_task(channel.drain(socket))
    reader = asyncio.create_task(_read(core, node_id, socket, hello))
    try:
        done, _ = await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, WebSocketDisconnect | TimeoutError | RuntimeError):
                log.error("the channel of node %s failed", node_id, exc_info=error)
    finally:
        # The last message's transaction is waited for: what it writes must not come after `left`.
        for task in (writer, reader):
            task.cancel()
        await asyncio.gather(writer, reader, return_exceptions=True)
        if core.live.disconnect(channel):
            await asyncio.shield(asyncio.to_thread(_gone, core, node_id))
        await _close(socket)


async def _prove(core: Core, authority: NodeAuthority, socket: WebSocket) -> tuple[dict[str, Any], str]:
    nonce = secrets.token_hex(32)
    await socket.send_text(json.dumps({"type": "challenge", "nonce": nonce}))
    hello = json.loads(await asyncio.wait_for(socket.receive_text(), _HELLO_SECONDS))
    if not isinstance(hello, dict) or hello.get("type") != "hello":
        raise ValueError("no hello")
    try:
        signature = base64.b64decode(str(hello["signature"]), validate=True)
    except binascii.Error:
        signature = b""
    node_id, key = authority.verify(str(hello["certificate_pem"]), nonce, signature)
    if str(hello.get("node_id", node_id)).replace("-", "") != node_id:
        raise ValueError("another node's id")

    def check() -> None:
        with core.read() as session:
            nodes.admitted(session, node_id, key)

    await asyncio.to_thread(check)
    return hello, node_id


async def _read(core: Core, node_id: str, socket: WebSocket, hello: dict[str, Any]) -> None:
    await _in_thread(core, node_id, hello)
    silence = core.settings.node_status_seconds * _SILENCE
    while True:
        try:
            text = await asyncio.wait_for(socket.receive_text(), silence)
        except TimeoutError:
            log.warning("node %s has not reported for %.0f s", node_id, silence)
            return
        try:
            message = json.loads(text)
            if isinstance(message, dict):
                await _in_thread(core, node_id, message)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("node %s sent a message that makes no sense: %r", node_id, error)


async def _in_thread(core: Core, node_id: str, message: dict[str, Any]) -> None:
    await asyncio.shield(asyncio.to_thread(_handle, core, node_id, message))


def _handle(core: Core, node_id: str, message: dict[str, Any]) -> None:
    with core.change() as unit:
        node = unit.session.get_one(Node, node_id)
        if node.removed_at is not None:
            channel = core.live.channel(node_id)
            if channel is not None and message["type"] not in ("lease_ended", "status"):
                channel.close("An administrator took this node out of the pool.")
                return
        match message["type"]:
            case "hello":
                nodes.arrived(core, unit, node, message)
            case "status":
                nodes.reported(core, unit, node, message)
            case "lease_ready" | "lease_failed" | "lease_ended":
                nodes.lease_message(core, unit, node, message)
            case other:
                log.info("node %s sent %r, which this version does not know", node_id, other)


def _gone(core: Core, node_id: str) -> None:
    with core.change() as unit:
        if core.live.channel(node_id) is None:  # else it came back in the meantime
            nodes.left(core, unit, node_id)


async def _refuse(socket: WebSocket, message: str) -> None:
    try:
        await socket.send_text(json.dumps({"type": "refused", "message": message}))
    except (RuntimeError, WebSocketDisconnect):
        return
    await _close(socket)


async def _close(socket: WebSocket) -> None:
    try:
        await socket.close()
    except (RuntimeError, WebSocketDisconnect):
        return
