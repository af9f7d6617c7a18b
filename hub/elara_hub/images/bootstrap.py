"""A Debian base image out of Debian's packages, for machines that can pull none."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from elara_hub.images import docker
from elara_hub.images.problem import ImageProblem, explain

_SECURITY = "http://deb.debian.org/debian-security"


def bootstrap(suite: str, mirror: str, fresh: bool, say: Callable[[str], None]) -> str:
    """Make `elara/debian:<suite>` unless it is there. Returns its name.

    Raises:
        ImageProblem: no debootstrap, no root, no Docker, or the archive does not answer.
    """
    tag = f"elara/debian:{suite}"
    docker.require_daemon()
    if not fresh and docker.inspect(tag) is not None:
        say(f"{tag} is here already")
        return tag
    if shutil.which("debootstrap") is None:
        raise ImageProblem("debootstrap is missing. On Debian or Ubuntu: sudo apt-get install debootstrap")
    if os.geteuid() != 0:
        raise ImageProblem("debootstrap makes the files of a whole system, for which it must be root: use sudo.")
    begun = time.monotonic()
    say(f"{tag}: fetching and unpacking Debian's packages (a minute or two)")
    with tempfile.TemporaryDirectory(prefix="elara-base-") as folder:
        root = Path(folder) / "root"
        done = subprocess.run(
            ("debootstrap", "--variant=minbase", "--exclude=e2fsprogs", suite, str(root), mirror),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = "\n".join("    " + line for line in (done.stdout + done.stderr).strip().splitlines()[-10:])
            raise ImageProblem(f"debootstrap failed. {explain(said)}\n{said}")
        (root / "etc" / "apt" / "sources.list").write_text(
            f"deb {mirror} {suite} main\ndeb {mirror} {suite}-updates main\ndeb {_SECURITY} {suite}-security main\n"
        )
        for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "var/log"):
            _empty(root / waste)
        say(f"{tag}: importing it into Docker")
        with subprocess.Popen(("tar", "-C", str(root), "-c", "."), stdout=subprocess.PIPE) as tar:
            command = (docker.program(), "import", "--change", 'CMD ["/bin/bash"]', "-", tag)
            imported = subprocess.run(command, stdin=tar.stdout, capture_output=True, text=True, check=False)
        if imported.returncode != 0 or tar.returncode != 0:
            raise ImageProblem(f"docker import failed. {explain(imported.stderr)}\n    {imported.stderr.strip()}")
    say(f"{tag} made in {time.monotonic() - begun:.0f} s")
    return tag


def _empty(folder: Path) -> None:
    """Remove the files of a folder, but not its folders: packages expect those."""
    for path in folder.rglob("*"):
        if path.is_file() or path.is_symlink():
            path.unlink()
