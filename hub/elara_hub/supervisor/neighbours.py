"""The few requests that the supervisor itself makes to the parts."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import httpx

from elara_hub.supervisor.folder import write_private
from elara_hub.supervisor.problem import UpProblem

log = logging.getLogger(__name__)

_ROUTES_SECONDS = 60.0


async def fetch_join_token(api: str, internal_token: str, name: str, target: Path) -> None:
    """Ask the service for a one-time token for our own node and write it to `target` (0600). Raises UpProblem."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            answer = await client.post(
                f"{api}/internal/join-tokens",
                json={"name": name},
                headers={"Authorization": f"Bearer {internal_token}"},
            )
            answer.raise_for_status()
            token = str(answer.json()["token"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise UpProblem(
            f"The service gave no token for this machine's node ({type(error).__name__}: {error}). "
            "Read logs/service.log in the data folder, mend the cause and start again."
        ) from error
    write_private(target, token + "\n")


async def fill_routes(hub: str, supervisor_token: str) -> None:
    """Have the hub tell a restarted proxy its routes now; by itself it would do so minutes later."""
    deadline = asyncio.get_running_loop().time() + _ROUTES_SECONDS
    headers = {"Authorization": f"token {supervisor_token}"}
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        while asyncio.get_running_loop().time() < deadline:
            try:
                answer = await client.post(f"{hub}/hub/api/proxy", headers=headers)
                if answer.status_code < 400:
                    return
                log.warning("the hub answered %s when asked for the proxy's routes", answer.status_code)
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.5)
