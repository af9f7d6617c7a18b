"""With the real node agent: it joins, a lease gets its devices from it, and hands them back."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from service_world import API, World


async def test_the_real_agent_serves_a_lease(world: World, tmp_path: Path) -> None:
    answer = await world.http.post(f"{API}/internal/join-tokens", json={"name": "real"}, headers=world.internal)
    token_file = tmp_path / "token"
    token_file.write_text(answer.json()["token"])
    node = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "elara_remoting.node", "--api", world.url + API, "--data", str(tmp_path / "node"), "--name", "real"),
        *("--emulate", "1", "--join-token-file", str(token_file)),
        env=os.environ | {"ELARA_DISABLE": "1"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:

        async def there() -> bool:
            assert node.returncode is None, "the agent ended"
            return await world.free() == 1000

        await world.until(there, limit=60)
        token = await world.workspace("ada")
        lease = await world.attach(token, share=250)
        assert lease["devices"][0]["emulated"] is True
        attachment = (await world.get(f"/leases/{lease['id']}/attachment", token))["devices"][0]
        assert len(attachment["secret"]) == 64 and Path(attachment["local"]).exists()  # noqa: ASYNC240
        await world.ok("DELETE", f"/leases/{lease['id']}", token)
        await world.until_free(1000, limit=30)
        usage = (await world.get("/usage?project=demo/digits", "user-ada"))["usage"][0]
        assert usage["peak_bytes"] == 0 and usage["busy_seconds"] == 0
    finally:
        node.terminate()
        await asyncio.wait_for(node.wait(), 30)
