"""A notebook kernel driven over the Jupyter server's REST and WebSocket, as the browser does it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
import websockets

# A figure in an output is larger than the websockets package's 1 MiB default.
_LARGEST_MESSAGE = 64 * 2**20


class CellFailed(Exception):
    """A cell raised; the text is the kernel's own error."""


@dataclass
class CellResult:
    """What a cell printed and displayed. `stderr` is kept apart: warnings are no result."""

    stdout: str = ""
    stderr: str = ""
    displays: list[dict[str, Any]] = field(default_factory=list)


class RemoteKernel:
    """One kernel of a workspace.

    Args:
        workspace_url: the workspace's base address, with the trailing slash.
        token: a hub token that may access the workspace.
    """

    def __init__(self, workspace_url: str, token: str) -> None:
        self._base = workspace_url
        self._headers = {"Authorization": f"token {token}"}
        self._session = uuid.uuid4().hex
        self.id = ""

    async def __aenter__(self) -> Self:
        async with httpx.AsyncClient(headers=self._headers, timeout=60) as client:
            answer = await client.post(self._base + "api/kernels", json={"name": "python3"})
            answer.raise_for_status()
        self.id = answer.json()["id"]
        address = self._base.replace("http", "ws", 1) + f"api/kernels/{self.id}/channels?session_id={self._session}"
        self._socket = await websockets.connect(
            address, additional_headers=self._headers, max_size=_LARGEST_MESSAGE, open_timeout=60
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()
        async with httpx.AsyncClient(headers=self._headers, timeout=60) as client:
            await client.delete(self._base + f"api/kernels/{self.id}")

    async def run(self, code: str) -> CellResult:
        """Execute one cell and wait for its end.

        Raises:
            CellFailed: the cell raised.
        """
        request = self._message("execute_request", {"code": code, "silent": False, "stop_on_error": True})
        await self._socket.send(json.dumps(request))
        result, failure = CellResult(), None
        replied = idle = False
        while not (replied and idle):
            message = json.loads(await self._socket.recv())
            if message["parent_header"].get("msg_id") != request["header"]["msg_id"]:
                continue
            content = message["content"]
            match message["msg_type"]:
                case "stream":
                    if content["name"] == "stdout":
                        result.stdout += content["text"]
                    else:
                        result.stderr += content["text"]
                case "display_data" | "execute_result":
                    result.displays.append(content["data"])
                case "error":
                    failure = f"{content['ename']}: {content['evalue']}"
                case "execute_reply":
                    replied = True
                case "status":
                    idle = content["execution_state"] == "idle"
        if failure is not None:
            raise CellFailed(failure)
        return result

    def _message(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        header = {
            "msg_id": uuid.uuid4().hex,
            "session": self._session,
            "username": "",
            "date": "",
            "msg_type": kind,
            "version": "5.3",
        }
        defaults = {"store_history": True, "user_expressions": {}, "allow_stdin": False}
        return {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": {**defaults, **content},
            "buffers": [],
            "channel": "shell",
        }
