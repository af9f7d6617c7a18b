"""The service's stand-in, a real JupyterLab and a real browser."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from .fake_service import TOKEN, FakeService
from .jupyter_process import Lab

_ports = itertools.count(21510)


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def shared_service() -> Iterator[FakeService]:
    fake = FakeService()
    fake.start()
    yield fake
    fake.stop()


StartLab = Callable[..., Lab]


@pytest.fixture(scope="module")
def start_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartLab]:
    """Starts a JupyterLab as a workspace of the given service; None: as a plain one, outside of any."""
    started = []

    def start(fake: FakeService | None, *options: str) -> Lab:
        folder = tmp_path_factory.mktemp("lab")
        runtime, core = folder / "elara", folder / "core"
        runtime.mkdir(mode=0o700)
        # Whether a core is built here is not what these tests are about; that one is there is.
        (core / "torch_2_13").mkdir(parents=True)
        (core / "torch_2_13" / "libelara_core.so").touch()
        workspace = {"ELARA_API_URL": "", "JUPYTERHUB_API_TOKEN": "", "ELARA_RUNTIME_DIR": str(runtime)}
        if fake is not None:
            workspace.update(ELARA_API_URL=fake.url, JUPYTERHUB_API_TOKEN=TOKEN)
        options = (f"--ElaraExtension.core_folder={core}", "--ElaraExtension.heartbeat_seconds=0.5", *options)
        lab = Lab(folder, next(_ports), workspace, *options)
        started.append(lab)
        return lab

    yield start
    for lab in started:
        lab.stop()
