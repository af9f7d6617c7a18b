"""What is told on a machine that lacks something, before anything is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[2] / "setup"


def preflight(*, path: str | None = None, code: str = "", **environment: str) -> tuple[int, str]:
    """Run the preflight with a path of its own; `code` runs before it."""
    variables = {**os.environ, **environment}
    if path is not None:
        variables["PATH"] = path
    begin = f"import sys; sys.path.insert(0, {str(SETUP)!r}); {code or 'pass'}"
    script = f"{begin}\nimport preflight; sys.exit(preflight.main())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=variables, check=False)
    return done.returncode, done.stderr


def compiler(folder: Path, knows_not: str) -> str:
    """A compiler that refuses every source in which `knows_not` stands, and takes all others."""
    file = folder / "c++"
    file.write_text(f'#!/bin/sh\nfor last; do :; done\ngrep -q "{knows_not}" "$last" && exit 1\nexit 0\n')
    file.chmod(0o755)
    return str(file)


def test_this_machine_is_fit() -> None:
    assert preflight() == (0, "")


def test_missing_tools_are_named_with_one_line_that_installs_them(tmp_path: Path) -> None:
    status, told = preflight(path=str(tmp_path))
    assert status == 1
    assert "a C++ compiler" in told
    line = next(line for line in told.splitlines() if "apt-get install" in line)
    assert {"build-essential", "make", "git"} <= set(line.split())


def test_missing_openssl_headers_are_named(tmp_path: Path) -> None:
    status, told = preflight(CXX=compiler(tmp_path, "openssl"))
    assert status == 1
    assert "OpenSSL's headers" in told and "libssl-dev" in told
    assert "build-essential" not in told


def test_an_old_compiler_is_told(tmp_path: Path) -> None:
    status, told = preflight(CXX=compiler(tmp_path, "concepts"))
    assert status == 1
    assert "does not know C++20" in told and "CXX=" in told


def test_another_python_is_told() -> None:
    status, told = preflight(code="sys.version_info = (3, 12, 3, 'final', 0)")
    assert status == 1
    assert "Python 3.12.3" in told and "needs Python 3.11" in told
    assert "python3.11-venv" in told and "PYTHON=" in told


def test_a_full_disk_is_told() -> None:
    code = "import shutil, pathlib; import preflight as p; p.ROOT = pathlib.Path('/nowhere-else'); "
    code += "shutil.disk_usage = lambda path: type('U', (), {'free': 2**30})"
    status, told = preflight(code=code)
    assert status == 1
    assert "1.0 GiB are free" in told


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
        (
            "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution",
            "index could not be reached",
        ),
        ("npm error code ENOTFOUND", "index could not be reached"),
        ("SSLError(CERTIFICATE_VERIFY_FAILED)", "PIP_CERT"),
    ],
)
def test_a_failed_installation_names_its_cause(said: str, told: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(SETUP)!r}); import install; print(install.reason({said!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told in done.stdout
