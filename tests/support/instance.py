"""A whole throw-away Elara for tests: the real `elara up` on a data folder and a port of its own.

    async with Instance(devices=2) as elara:
        alice = await elara.person("alice")
        await elara.project("red", "one", {"alice": "editor"})
        await alice.start_workspace({"project": "red/one"})
        elara.kill("service")
        await elara.wait_ready("service", restarts=1)

Nothing of it is left afterwards, whatever the test did; on a failure the ends of the parts' logs are printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import httpx

from elara_hub.demo.person import Person
from elara_hub.demo.throwaway import InstanceFailed, Throwaway
from elara_hub.supervisor import processes

API = "/services/elara/api/v1"
PARTS = ("proxy", "gate", "hub", "service", "mlflow", "node")


class Instance(Throwaway):
    """An instance with its people; `environment` is for example ``{"ELARA_HEARTBEAT_GRACE": "5"}``."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self._people: dict[str, Person] = {}

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)):
            print(self.report())
        await super().__aexit__(kind, error, trace)

    async def stop(self, number: signal.Signals = signal.SIGINT, limit: float = 60) -> int:
        """Stop it as Ctrl-C does and keep the folder; everybody has to sign in anew. Returns the exit status."""
        for person in self._people.values():
            await person.http.aclose()
        self._people.clear()
        return await super().stop(number, limit)

    def left_behind(self) -> list[str]:
        """Processes that still belong to the instance, as `pid command line`."""
        return [f"{p.pid} {' '.join(p.cmdline())}" for p in processes.left_behind(self.data)]

    def log(self, part: str) -> str:
        """A part's log."""
        file = self.data / "logs" / f"{part}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def report(self) -> str:
        """What was printed and the end of each log, for a failed test."""
        logs = (f"--- {name}.log\n" + "\n".join(self.log(name).splitlines()[-25:]) for name in PARTS if self.log(name))
        return f"--- elara up\n{self.printed()[-3000:]}\n" + "\n".join(logs)

    # --- its parts

    def part(self, name: str) -> dict[str, Any]:
        """`{state, pid, url, restarts, ready_seconds}` of a part."""
        return dict(self.status()["parts"][name])

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a part without a word; the supervisor starts it again."""
        os.kill(int(self.part(name)["pid"]), number)

    async def restart(self, name: str) -> None:
        """Have a part end in good order, and wait until it is ready again."""
        before = int(self.part(name)["restarts"])
        self.kill(name, signal.SIGTERM)
        await self.wait_ready(name, restarts=before + 1)

    async def wait_ready(self, name: str, restarts: int = 0, limit: float = 90) -> None:
        """Wait until a part is ready and was started again at least `restarts` times."""

        def ready() -> bool:
            part = self.part(name)
            return bool(part["state"] == "ready" and part["restarts"] >= restarts)

        await self.until(ready, f"{name} ready", limit)

    @contextlib.contextmanager
    def paused(self, name: str) -> Any:
        """A part that does not answer for a while, but is not gone."""
        self.kill(name, signal.SIGSTOP)
        try:
            yield
        finally:
            self.kill(name, signal.SIGCONT)

    async def until(self, condition: Callable[[], Any], what: str, limit: float = 30) -> Any:
        """The first true answer of `condition`, which may be a coroutine function; fails with `what` otherwise."""
        deadline = time.monotonic() + limit
        while True:
            answer = condition()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return answer
            if time.monotonic() > deadline:
                raise InstanceFailed(f"{what}: not within {limit:g} s")
            await asyncio.sleep(0.1)

    # --- people and projects

    async def admin(self) -> Person:
        """The administrator, signed in."""
        return await self._signed_in(self.admin_name, self.admin_password)

    async def person(self, name: str, password: str = "correct horse battery") -> Person:
        """A person with an account, who is signed in; the account is made by invitation when there is none."""
        if name in self._people:
            return self._people[name]
        invited = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "elara_remoting.cli", "admin", "user", "--data", str(self.data)),
            *("invite", "--url", self.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await invited.communicate()
        found = re.search(rb"invitation=([\w-]+)", output)
        if found is None:
            raise InstanceFailed(f"No invitation was made: {output.decode(errors='replace')}")
        async with httpx.AsyncClient(base_url=self.url, timeout=60, follow_redirects=True) as browser:
            token = found.group(1).decode()
            await browser.get("/hub/signup", params={"invitation": token})
            form = {"invitation": token, "username": name, "password": password, "repeated": password}
            form["_xsrf"] = browser.cookies.get("_xsrf", path="/hub/") or ""
            answer = await browser.post("/hub/signup", data=form)
            if answer.status_code >= 400 and "taken" not in answer.text:
                raise InstanceFailed(f"{name} could not sign up: {answer.status_code} {answer.text[:300]}")
        return await self._signed_in(name, password)

    async def project(self, team: str, name: str, members: Mapping[str, str] | None = None) -> None:
        """Make team and project when they are not there, and give people a role (owner, editor, viewer)."""
        admin = await self.admin()
        for path, body in ((f"{API}/teams", {"slug": team}), (f"{API}/teams/{team}/projects", {"slug": name})):
            answer = await admin.http.post(path, json=body)
            if answer.status_code not in (201, 409):
                raise InstanceFailed(f"{path}: {answer.status_code} {answer.text[:300]}")
        for person, role in (members or {}).items():
            answer = await admin.http.put(f"{API}/projects/{team}/{name}/members/{person}", json={"role": role})
            if answer.status_code not in (200, 201):
                raise InstanceFailed(f"{person} as {role}: {answer.status_code} {answer.text[:300]}")

    async def _signed_in(self, name: str, password: str) -> Person:
        if name not in self._people:
            self._people[name] = await Person(self.url, name, password).__aenter__()
        return self._people[name]
