"""Makes .venv-torch-VERSION with a stock PyTorch as `pip install torch` gives it (a CUDA build), torchvision, what the
remoting tests need, and the C++ core built for it. Standard library only.

    python3.11 setup/stock_torch.py 2.14.1

It is beside .venv, which has the CPU build; gigabytes large, and made only when asked for. A second run builds what
changed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Of requirements/run.txt and test.txt, what the remoting tests and the core's build need besides torch.
NEEDED = (
    *("attrs", "anyio", "certifi", "cffi", "click", "cmake", "cryptography", "expecttest", "h11", "httpcore", "httpx"),
    *(
        "hypothesis",
        "idna",
        "iniconfig",
        "markdown-it-py",
        "mdurl",
        "ninja",
        "numpy",
        "nvidia-ml-py",
        "packaging",
        "pluggy",
    ),
    *("psutil", "pycparser", "pygments", "pytest", "pytest-asyncio", "pytest-timeout", "pyyaml", "rich", "setuptools"),
    *("sortedcontainers", "typing-extensions", "websockets", "wheel"),
)


def pins() -> list[str]:
    """The packages that are needed, as the project pins them."""
    lines = [
        line for name in ("run", "test") for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    ]
    wanted = set(NEEDED)
    return [line for line in lines if re.split(r"[=\[;]", line)[0].strip().lower() in wanted]


def main(arguments: list[str]) -> int:
    """Exit status 1 with a sentence when a step fails."""
    if len(arguments) != 1 or not re.fullmatch(r"\d+\.\d+\.\d+", arguments[0]):
        print("Say which PyTorch: setup/stock_torch.py 2.14.1", file=sys.stderr)
        return 1
    venv = ROOT / f".venv-torch-{arguments[0]}"
    python = venv / "bin" / "python"
    stamp = venv / "elara-packages"
    wanted = "\n".join([arguments[0], *pins()])
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    steps: list[tuple[str, list[str], Path]] = []
    if not stamp.is_file() or stamp.read_text() != wanted:
        steps = [
            ("environment", [sys.executable, "-m", "venv", str(venv)], ROOT),
            (f"PyTorch {arguments[0]} (gigabytes)", [*pip, f"torch=={arguments[0]}", "torchvision"], ROOT),
            ("packages", [*pip, "--no-deps", *pins()], ROOT),
        ]
    steps.append(("C++ core (minutes)", [*pip, "--no-build-isolation", "--no-deps", "-e", "remoting"], ROOT))
    for name, command, folder in steps:
        print(f"  {name} ...", flush=True)
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip()
            print(f"{name}: this failed. Mend it and run the same command again.\n{said[-3000:]}", file=sys.stderr)
            return 1
        if name == "packages":
            stamp.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
