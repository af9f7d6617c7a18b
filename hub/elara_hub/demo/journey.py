"""The journey itself: sign in, open a workspace, train on its CPU, attach, train on the device, track, detach.

Every step is one that a user makes in the browser, made here through the same addresses. A step yields the figure that
it is judged by; the first step that fails ends the journey with a sentence.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from elara_hub.demo.kernel import CellFailed, RemoteKernel
from elara_hub.demo.person import Person, SignInFailed

LEAST_ACCURACY = 0.98
_FIRST_RESULT = "import torch; print(torch.ones(2, device='cuda').sum().item(), torch.cuda.get_device_name(0))"

Report = Callable[[str, str], None]
"""Called after each step with its name and its figure."""


class JourneyFailed(Exception):
    """A step did not do what it should; the text names the step and what was seen."""


def notebook_cells(path: Path) -> dict[str, list[str]]:
    """The example's code cells by their tag, in order."""
    cells: dict[str, list[str]] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            cells.setdefault(cell["metadata"]["tags"][0], []).append("".join(cell["source"]))
    return cells


async def make_journey(person: Person, cells: dict[str, list[str]], options: dict[str, Any], report: Report) -> None:
    """Make the whole journey as `person`, who must be signed in.

    Args:
        cells: the example notebook's cells by tag, see `notebook_cells`.
        options: what the spawn page would send: project, image, size.

    Raises:
        JourneyFailed: a step failed.
    """
    try:
        seconds = await person.start_workspace(options)
        report("workspace started", f"{seconds:.1f} s")
        await _in_workspace(person, cells, report)
        began = time.monotonic()
        await person.stop_workspace()
        report("workspace stopped", f"{time.monotonic() - began:.1f} s")
    except (CellFailed, SignInFailed, TimeoutError) as error:
        raise JourneyFailed(str(error)) from error
    except httpx.HTTPStatusError as error:
        body = error.response.text[:500]
        raise JourneyFailed(f"{error.request.url} answered {error.response.status_code}: {body}") from error
    except httpx.TransportError as error:
        raise JourneyFailed(f"a part did not answer: {error!r}") from error


async def _in_workspace(person: Person, cells: dict[str, list[str]], report: Report) -> None:
    workspace = person.workspace_url()
    free_before = await _free_share(person)
    async with RemoteKernel(workspace, person.token) as kernel:
        await _run(kernel, cells["setup"])
        printed = await _run(kernel, cells["cpu"])
        report("one epoch on the CPU", _last_line(printed))

        began = time.monotonic()
        answer = await person.http.post(
            workspace + "elara/attach", json={"count": 1, "share": 250, "minutes": 15}, timeout=120
        )
        answer.raise_for_status()
        first = await kernel.run(_FIRST_RESULT)
        device = first.stdout.strip().partition(" ")[2]
        report("attached to the running kernel", f"{time.monotonic() - began:.2f} s to the first result on {device}")

        await _run(kernel, cells["attached"])
        began = time.monotonic()
        printed = await _run(kernel, cells["train"])
        accuracy, run = _result(printed)
        if accuracy < LEAST_ACCURACY:
            raise JourneyFailed(f"the test accuracy is {accuracy:.4f}, less than {LEAST_ACCURACY}")
        report("trained on the device", f"test accuracy {accuracy:.2%}, {time.monotonic() - began:.1f} s")
        report("tracked in MLflow", await _tracked(person, kernel, run))

        printed = await _run(kernel, cells["detach"])
        began = time.monotonic()
        (await person.http.post(workspace + "elara/detach", json={})).raise_for_status()
        seconds = time.monotonic() - began
        gone = await kernel.run("print(torch.cuda.is_available(), accuracy(test))")
        if not gone.stdout.startswith("False"):
            raise JourneyFailed("the kernel still sees a device after the detach")
        if (free := await _free_share(person)) != free_before:
            raise JourneyFailed(f"{free_before - free} thousandths of a device are still taken after the detach")
        report("detached, the kernel lives on", f"{seconds:.2f} s, every share is free again")


async def _run(kernel: RemoteKernel, cells: list[str]) -> str:
    printed = ""
    for cell in cells:
        printed += (await kernel.run(cell)).stdout
    return printed


async def _free_share(person: Person) -> int:
    answer = await person.http.get("/services/elara/api/v1/pool")
    answer.raise_for_status()
    return sum(int(model["free_share_total"]) for model in answer.json()["models"])


async def _tracked(person: Person, kernel: RemoteKernel, run: str) -> str:
    """Ask MLflow, from inside the workspace, what it keeps of the run."""
    code = f"""
import json, mlflow
_client = mlflow.MlflowClient()
_run = _client.get_run({run!r})
print(json.dumps(dict(
    user=_run.info.user_id, params=len(_run.data.params), metrics=sorted(_run.data.metrics),
    artifacts=[a.path for a in _client.list_artifacts({run!r})], models=len(_run.outputs.model_outputs),
)))
"""
    kept = json.loads((await kernel.run(code)).stdout)
    if kept["user"] != person.name:
        raise JourneyFailed(f"MLflow has the run under {kept['user']!r}, not under {person.name!r}")
    for name, there in (
        ("test_accuracy", "test_accuracy" in kept["metrics"]),
        ("confusion_matrix.png", "confusion_matrix.png" in kept["artifacts"]),
        ("a model", kept["models"] > 0),
    ):
        if not there:
            raise JourneyFailed(f"the MLflow run lacks {name}: {kept}")
    return f"{kept['params']} parameters, {len(kept['metrics'])} metrics, a figure and a model, under {kept['user']}"


def _result(printed: str) -> tuple[float, str]:
    match = re.search(r"test accuracy: ([0-9.]+)  run: (\w+)", printed)
    if match is None:
        raise JourneyFailed("the training cell printed no test accuracy")
    return float(match.group(1)), match.group(2)


def _last_line(printed: str) -> str:
    return printed.strip().splitlines()[-1]
