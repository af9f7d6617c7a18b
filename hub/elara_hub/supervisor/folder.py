"""The data folder: what lies where, the checks before anything is written, and the lock of the one instance on it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elara_hub.supervisor.problem import UpProblem

FORMAT = 1
LEAST_FREE_BYTES = 512 * 1024 * 1024
_MARK = "elara-data.json"
# What an interrupted first start may have left, and nothing else: such a folder is simply finished.
_FOLDERS = ("secrets", "logs", "run", "hub", "mlflow", "node", "homes", "projects")
_FILES = ("up.lock", "up.json")
_DATABASES = ("elara.sqlite", "hub/jupyterhub.sqlite", "mlflow/mlflow.sqlite", "mlflow/auth.sqlite")
_SQLITE_MAGIC = b"SQLite format 3\x00"


class DataFolder:
    """One data folder, addressed absolutely. Nothing is made before `open`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - keeps a symlinked path as the admin wrote it
        self._lock: int | None = None

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Runtime folders of the workspaces; emptied at each start."""
        return self.root / "run"

    @property
    def status_file(self) -> Path:
        return self.root / "up.json"

    def open(self) -> None:
        """Check, lock and complete the folder. Raises UpProblem and then has changed nothing but `up.lock`."""
        self._check_place()
        self._take_lock()
        try:
            self._check_content()
        except UpProblem:
            self.close()
            raise
        # What a killed supervisor told of itself is true no more.
        self.status_file.unlink(missing_ok=True)
        for name in _FOLDERS:
            folder = self.root / name
            folder.mkdir(mode=0o700, exist_ok=True)
        self.secrets.chmod(0o700)
        if not (self.root / _MARK).exists():
            write_private(self.root / _MARK, json.dumps({"format": FORMAT}) + "\n")

    def close(self) -> None:
        """Let another instance have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace `up.json` in one step."""
        write_private(self.status_file, json.dumps(status, indent=1) + "\n")

    def read_status(self) -> dict[str, Any] | None:
        """The last written status, or None when there is none that can be read."""
        try:
            status = json.loads(self.status_file.read_text())
        except (OSError, ValueError):
            return None
        return status if isinstance(status, dict) else None

    def _check_place(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise UpProblem(f"{self.root} is a file, not a folder. Choose another place with --data FOLDER.")
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UpProblem(
                f"The data folder {self.root} cannot be made ({error.strerror}). Choose another with --data FOLDER."
            ) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise UpProblem(
                f"The data folder {self.root} cannot be written by this user. Give yourself the right to write there "
                "(it must belong to whoever runs `elara up`), or choose another with --data FOLDER."
            )
        free = shutil.disk_usage(self.root).free
        if free < LEAST_FREE_BYTES:
            raise UpProblem(
                f"Only {free // 2**20} MiB are free on the disk of {self.root}, and at least "
                f"{LEAST_FREE_BYTES // 2**20} MiB are needed. Free some space, or choose a folder on another disk with "
                "--data FOLDER. Nothing was changed."
            )

    def _take_lock(self) -> None:
        try:
            lock = os.open(self.root / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UpProblem(f"{self.root / 'up.lock'} cannot be opened ({error.strerror}). Check its owner.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            status = self.read_status() or {}
            where = f" at {status['url']}" if status.get("url") else ""
            who = f" (process {status['pid']})" if status.get("pid") else ""
            raise UpProblem(
                f"Elara is already running on {self.root}{who}{where}. Use that one, stop it first (Ctrl-C in its "
                "terminal), or start a separate one with --data FOLDER --port PORT."
            ) from error
        self._lock = lock

    def _check_content(self) -> None:
        mark = self.root / _MARK
        if not mark.exists():
            foreign = sorted(
                p.name for p in self.root.iterdir() if p.name not in (*_FOLDERS, *_FILES) and p.name[0] != "."
            )
            if foreign:
                raise UpProblem(
                    f"{self.root} holds other files ({', '.join(foreign[:3])}) and is not an Elara data folder, or one "
                    f"that lost its {_MARK}. Choose an empty or new folder with --data FOLDER, or restore the folder "
                    "from your backup. Nothing was changed."
                )
        else:
            self._check_format(mark)
        for name in _DATABASES:
            database = self.root / name
            # An empty file is what SQLite itself makes first; it counts as new.
            if database.is_file() and database.stat().st_size > 0:
                with database.open("rb") as file:
                    if file.read(16) != _SQLITE_MAGIC:
                        raise UpProblem(
                            f"{database} is damaged: it is no SQLite database. Restore it from your backup, or move it "
                            "away to start without what it held. Nothing was changed."
                        )

    def _check_format(self, mark: Path) -> None:
        try:
            found = int(json.loads(mark.read_text())["format"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UpProblem(
                f"{mark} cannot be read, so the data folder may be half-written. Restore the file from your backup, or "
                f'write {{"format": {FORMAT}}} into it if you are sure that this is an Elara data folder. '
                "Nothing was changed."
            ) from error
        if found > FORMAT:
            raise UpProblem(
                f"{self.root} was written by a newer Elara (format {found}, this one knows {FORMAT}). Start the newer "
                "version, or choose another folder with --data FOLDER. Nothing was changed."
            )


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only."""
    new = path.with_name(f".{path.name}.new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
