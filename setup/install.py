"""Makes .venv with everything that Elara needs and builds the C++ core and the JupyterLab extension. Standard
library only.

    python3.11 setup/install.py [--test]

Each step is stamped with a hash of what it depends on, so a second run does nothing. What takes long to build is
kept in ~/.cache/elara (or ELARA_CACHE), so that another checkout on this machine need not build it again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import inputs
import preflight

ROOT = inputs.ROOT
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "elara-setup"
CACHE = Path(
    os.environ.get("ELARA_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elara"
)
TORCH = "2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
LEAST_NODE = 20
PACKAGES = ("remoting/elara_remoting", "hub/elara_hub", "spawner/elara_spawner")


class SetupProblem(Exception):
    """A sentence that names what is wrong and the next step."""


def run(*command: str | Path, what: str, cwd: Path = ROOT, extra: dict[str, str] | None = None) -> None:
    """Run a command, quiet unless it fails; raises SetupProblem with the last lines of what it said."""
    environment = {**os.environ, "PATH": f"{VENV / 'bin'}:{os.environ.get('PATH', '')}", **(extra or {})}
    log = STAMPS / "last-command.log"
    STAMPS.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            [str(c) for c in command], cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    if done.returncode != 0:
        said = log.read_text(errors="replace")
        lines = "\n".join("    " + line for line in said.strip().splitlines()[-15:])
        raise SetupProblem(f"{what} failed. {reason(said)}\n{lines}")


def reason(said: str) -> str:
    """The likeliest cause of a failed command, from what it printed, with the next step."""
    lower = said.lower()
    if "no space left on device" in lower:
        return f"The disk is full: free some space on the disk of {ROOT}, then run the same command again."
    signs = (
        "temporary failure in name resolution",
        "newconnectionerror",
        "connection refused",
        "network is unreachable",
    )
    if any(s in lower for s in (*signs, "enotfound", "econnrefused", "etimedout", "read timed out", "eai_again")):
        return (
            "The package index could not be reached: check the network (and HTTPS_PROXY, PIP_INDEX_URL or npm's "
            "registry "
            "if this site has its own), then run the same command again. What was done so far is kept."
        )
    if "certificate_verify_failed" in lower or "self-signed certificate" in lower:
        return (
            "A certificate was not trusted: if this site has its own authority, name its file in PIP_CERT and "
            "NODE_EXTRA_CA_CERTS, then run the same command again."
        )
    return "The end of what it said is below; mend it and run the same command again. What was done so far is kept."


def pip(*arguments: str | Path, what: str, extra: dict[str, str] | None = None) -> None:
    """pip of .venv, without a progress bar."""
    run(PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments, what=what, extra=extra)


def make_venv() -> None:
    """The environment; one that works and has the right Python is kept, another is made anew."""
    if VENV.exists():
        question = "import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))"
        try:
            if subprocess.run([str(PYTHON), "-c", question], capture_output=True, check=False).returncode == 0:
                return
        except OSError:
            pass
        shutil.rmtree(VENV)
    done = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupProblem(f"The environment {VENV} cannot be made: {(done.stderr or done.stdout).strip()}")


def check_network() -> None:
    """Ask pip's index one question, so that a missing network is told in seconds and not after many retries."""
    environment = {**os.environ, "PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "20"}
    done = subprocess.run(
        [
            str(PYTHON),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            "--no-deps",
            "-q",
            "-d",
            str(STAMPS),
            "wheel",
        ],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        raise SetupProblem(reason(done.stdout + done.stderr + " newconnectionerror"))
    for file in STAMPS.glob("wheel-*"):
        file.unlink()


def install_torch() -> None:
    """The CPU build of exactly this version: first what pip here offers already, then PyTorch's own index."""
    exact = f"torch=={TORCH}+cpu"
    # --no-deps: what it needs is pinned in requirements/run.txt, and torch's index has other versions of it.
    try:
        pip("install", "--no-deps", exact, what="Installing PyTorch")
    except SetupProblem:
        pip(
            "install",
            "--no-deps",
            exact,
            "--extra-index-url",
            TORCH_INDEX,
            what=f"Installing {exact} from {TORCH_INDEX}",
        )


def install_packages(name: str) -> Callable[[], None]:
    """A step that installs requirements/<name>.txt."""

    def step() -> None:
        pip(
            "install",
            "--no-deps",
            "-r",
            ROOT / "requirements" / f"{name}.txt",
            what=f"Installing requirements/{name}.txt",
        )

    return step


def has_node() -> bool:
    """Whether the machine has Node and npm that are new enough; Debian's nodejs comes without npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return False
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = version.removeprefix("v").partition(".")[0]
    return major.isdigit() and int(major) >= LEAST_NODE


def build_core() -> None:
    """Compile the C++ core into the checkout, or take it from the cache; then install elara-remoting in place."""
    key = hashlib.sha256((inputs.core() + TORCH).encode()).hexdigest()[:24]
    kept = CACHE / f"core-{key}"
    place = ROOT / "remoting" / "elara_remoting" / "_core" / f"torch_{'_'.join(TORCH.split('.')[:2])}"
    built = kept.is_dir()
    if built:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(kept, place)
    pip(
        *("install", "--no-build-isolation", "--no-deps", "--force-reinstall", "-e", ROOT / "remoting"),
        what="Building the C++ core",
        extra={"ELARA_CORE_BUILT": "1" if built else "0"},
    )
    if not built:
        keep(place, kept)


def labextension_wheel() -> Path:
    """The JupyterLab extension as a wheel: from the cache, else built. Raises SetupProblem."""
    kept = CACHE / f"labextension-{inputs.labextension()[:24]}"
    if kept.is_dir():
        return next(kept.glob("*.whl"))
    made = STAMPS / "wheels"
    shutil.rmtree(made, ignore_errors=True)
    pip(
        *("wheel", "--no-build-isolation", "--no-deps", "-w", made, ROOT / "extensions" / "jupyterlab-elara"),
        what="Building the JupyterLab extension",
    )
    keep(made, kept)
    return next(made.glob("*.whl"))


def build_labextension() -> None:
    """Install the JupyterLab extension."""
    wheel = labextension_wheel()
    pip("install", "--no-deps", "--force-reinstall", wheel, what="Installing the JupyterLab extension")


def install_hub() -> None:
    """The control plane, in place."""
    pip("install", "--no-build-isolation", "--no-deps", "--force-reinstall", "-e", ROOT, what="Installing elara-hub")


def compile_modules() -> None:
    """Whose programs import these may not be allowed to keep what Python compiled, and each would do it anew."""
    run(PYTHON, "-m", "compileall", "-q", *(ROOT / package for package in PACKAGES), what="Compiling the modules")


def install_proxy() -> None:
    """configurable-http-proxy, by its lock file."""
    run(
        *("npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--prefer-offline"),
        cwd=ROOT / "deploy" / "proxy",
        what="Installing the proxy",
    )


def keep(made: Path, kept: Path) -> None:
    """Put a built thing into the cache in one step; a cache that cannot be written is no reason to fail."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        new = kept.with_name(f".{kept.name}.{os.getpid()}")
        shutil.copytree(made, new)
        try:
            new.rename(kept)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)  # another checkout was faster
    except OSError as error:
        print(f"  (not kept for other checkouts: {error})")


def steps(test: bool) -> list[tuple[str, str, str, Callable[[], None]]]:
    """Name, what to tell, hash of what it depends on, and the work; each depends on the ones before it."""
    python = ".".join(str(n) for n in sys.version_info[:2])
    node = has_node()
    listed: list[tuple[str, str, str, Callable[[], None]]] = [
        ("venv", "environment .venv", python, make_venv),
        ("torch", f"PyTorch {TORCH} (CPU build)", TORCH, install_torch),
        ("run", "packages", inputs.of("requirements/run.txt"), install_packages("run")),
    ]
    if test:
        listed.append(("test", "packages for the tests", inputs.of("requirements/test.txt"), install_packages("test")))
    if not node:
        listed.append(
            ("node", "Node (none on this machine)", inputs.of("requirements/node.txt"), install_packages("node"))
        )
    listed += [
        ("core", "C++ core (minutes, unless it is in the cache)", inputs.core() + TORCH, build_core),
        ("labextension", "JupyterLab extension", inputs.labextension(), build_labextension),
        ("hub", "control plane", inputs.of("pyproject.toml"), install_hub),
        ("modules", "Python modules", inputs.modules(*PACKAGES), compile_modules),
        ("proxy", "proxy", inputs.of("deploy/proxy/package-lock.json") + str(node), install_proxy),
    ]
    return listed


def install(test: bool) -> None:
    """Do what is not done yet. Raises SetupProblem."""
    todo = [step for step in steps(test) if not stamped(step[0], step[2])]
    if not todo:
        return
    if found := preflight.problems():
        raise SetupProblem("\n".join(found))
    if todo[0][0] == "venv":
        todo = steps(test)  # a new environment: everything anew
    networked = {"torch", "run", "test", "node", "labextension", "proxy"} & {step[0] for step in todo}
    for name, label, key, work in todo:
        begun = time.monotonic()
        print(f"  {label} ...", flush=True)
        if networked and name != "venv":
            STAMPS.mkdir(parents=True, exist_ok=True)
            check_network()
            networked = set()
        work()
        stamp(name, key)
        print(f"  {label} done in {time.monotonic() - begun:.0f} s", flush=True)


def stamp(name: str, key: str) -> None:
    """Note that a step was done for these inputs."""
    STAMPS.mkdir(parents=True, exist_ok=True)
    (STAMPS / name).write_text(key)


def stamped(name: str, key: str) -> bool:
    """Whether a step was done for these very inputs."""
    try:
        return bool(PYTHON.exists() and (STAMPS / name).read_text() == key)
    except OSError:
        return False


def main() -> int:
    """Exit status 1 with a sentence when something is in the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", action="store_true", help="also what the tests need")
    options = parser.parse_args()
    try:
        install(options.test)
    except SetupProblem as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what was done so far is kept.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
