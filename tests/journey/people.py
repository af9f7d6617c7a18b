"""What a person does in a workspace without a browser: train in a kernel, attach, detach, look at the pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from elara_hub.demo.kernel import RemoteKernel
from elara_hub.demo.person import Person

TRAINING = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)).to("cuda")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
inputs = torch.randn(256, 32).to("cuda")
targets = inputs.sum(1, keepdim=True)

def steps(count):
    for _ in range(count):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()

first = steps(5)
"""
"""Defines `steps(count)`, which trains on the attached device and returns the loss."""


async def pool_free(person: Person) -> int:
    """Thousandths of devices that are free in the whole pool."""
    answer = await person.http.get("/services/elara/api/v1/pool")
    answer.raise_for_status()
    return sum(int(model["free_share_total"]) for model in answer.json()["models"])


async def attach(person: Person, share: int = 250) -> dict[str, Any]:
    """Attach one device through the workspace, as the button does; returns the lease."""
    body = {"count": 1, "share": share, "minutes": 30}
    answer = await person.http.post(person.workspace_url() + "elara/attach", json=body)
    assert answer.status_code == 200, answer.text
    lease: dict[str, Any] = answer.json()["lease"]
    return lease


async def detach(person: Person) -> None:
    answer = await person.http.post(person.workspace_url() + "elara/detach", json={})
    assert answer.status_code == 200, answer.text


async def seconds_until_free(person: Person, wanted: int, limit: float) -> float:
    """Seconds until `wanted` thousandths are free."""
    began = time.monotonic()
    while (free := await pool_free(person)) != wanted:
        assert time.monotonic() - began < limit, f"after {limit:g} s only {free} of {wanted} thousandths are free"
        await asyncio.sleep(0.2)
    return time.monotonic() - began


@asynccontextmanager
async def at_work(person: Person, project: str) -> AsyncIterator[RemoteKernel]:
    """A fresh workspace in `project` with a running kernel; stopped afterwards, dead or alive."""
    await person.stop_workspace()
    await person.start_workspace({"project": project})
    try:
        async with RemoteKernel(person.workspace_url(), person.token) as kernel:
            yield kernel
    finally:
        await person.stop_workspace()
