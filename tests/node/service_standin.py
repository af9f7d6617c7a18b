"""The service's side of the node channel for tests: real HTTP and WebSocket, and misbehaviour on request."""

import asyncio
import base64
import contextlib
import json
import uuid

import uvicorn
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from node_harness import until

TOKEN = "one-time-token"


class Service:
    """Keeps what the node said; `tell` sends to the node that is connected."""

    def __init__(self):
        self.keys = {}
        self.tokens = {TOKEN}
        self.hellos = []
        self.messages = []
        self.socket = None
        self.refuse = None
        self.first_words = None
        self.port = None
        self._server = None
        self.app = FastAPI()
        self.app.post("/services/elara/api/v1/nodes/join")(self._join)
        self.app.websocket("/services/elara/api/v1/nodes/channel")(self._channel)

    @property
    def api_url(self):
        return f"http://127.0.0.1:{self.port}/services/elara/api/v1"

    async def start(self):
        config = uvicorn.Config(
            self.app, "127.0.0.1", self.port or 0, log_level="error", lifespan="off", ws="websockets-sansio"
        )
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext
        self._task = asyncio.create_task(self._server.serve())
        await until(lambda: self._server.started, what="the service")
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    async def stop(self):
        """As a crash has it: connections break off."""
        self._server.force_exit = self._server.should_exit = True
        if self.socket is not None:
            with contextlib.suppress(Exception):
                await self.socket.close()
        await self._task
        self.socket = None

    async def tell(self, **message):
        await self.socket.send_text(json.dumps(message))

    async def tell_raw(self, text):
        await self.socket.send_text(text)

    def got(self, kind, lease_id=None):
        """The latest message of a kind, or None."""
        for message in reversed(self.messages):
            if message["type"] == kind and lease_id in (None, message.get("lease_id")):
                return message
        return None

    async def _join(self, body: dict):
        if body["token"] not in self.tokens:
            error = {"reason": "bad_join_token", "message": "This join token was used before.", "next_step": ""}
            return JSONResponse({"error": error}, 403)
        self.tokens.discard(body["token"])
        node_id = uuid.uuid4().hex
        certificate = f"certificate of {node_id}"
        self.keys[certificate] = serialization.load_pem_public_key(body["public_key_pem"].encode())
        return {"node_id": node_id, "certificate_pem": certificate, "ca_pem": "ca"}

    async def _channel(self, socket: WebSocket):
        await socket.accept()
        if self.first_words is not None:
            await socket.send_text(self.first_words)
        nonce = uuid.uuid4().hex
        await socket.send_text(json.dumps({"type": "challenge", "nonce": nonce}))
        try:
            hello = json.loads(await socket.receive_text())
            signature = base64.b64decode(hello["signature"])
            self.keys[hello["certificate_pem"]].verify(signature, b"elara-node-v1" + nonce.encode())
            self.hellos.append(hello)
            if self.refuse is not None:
                await socket.send_text(json.dumps({"type": "refused", "message": self.refuse}))
                await socket.close()
                return
            await socket.send_text(
                json.dumps({"type": "welcome", "node_id": hello["node_id"], "heartbeat_seconds": 0.3})
            )
            self.socket = socket
            while True:
                self.messages.append(json.loads(await socket.receive_text()))
        except (WebSocketDisconnect, InvalidSignature, KeyError, ValueError):
            return
