"""Every input that fuzzing found worth keeping, and every seed, once through the sanitized decoders."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.remoting.fuzz.build import ENVIRONMENT, TARGETS, build
from tests.remoting.fuzz.seeds import seeds

CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture(scope="module")
def programs() -> Path:
    return build()


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_runs_without_a_finding(target: str, programs: Path, tmp_path: Path) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert len(inputs) >= 5
    for number, data in enumerate(seeds(target)):
        inputs.append(tmp_path / f"seed-{number}")
        inputs[-1].write_bytes(data)
    done = subprocess.run(
        [str(programs / f"fuzz_{target}"), "-timeout=60", "-rss_limit_mb=2048", *map(str, inputs)],
        env={**os.environ, **ENVIRONMENT},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-4000:]
