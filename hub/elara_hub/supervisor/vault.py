"""The secrets of an instance: made once, kept in files of mode 0600, told to the parts by environment only."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, fields
from pathlib import Path

from elara_hub.supervisor.folder import write_private
from elara_hub.supervisor.problem import UpProblem

_LEAST = 16
FIRST_PASSWORD = "first-admin-password"  # noqa: S105 - a file's name


@dataclass(frozen=True)
class Vault:
    """All secrets; a field's name is its file's, with hyphens. Never printed (repr is empty)."""

    proxy_token: str = field(repr=False)
    hub_crypt_key: str = field(repr=False)
    internal_token: str = field(repr=False)
    service_token: str = field(repr=False)
    mlflow_token: str = field(repr=False)
    supervisor_token: str = field(repr=False)
    mlflow_secret: str = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Vault:
        """Read the secrets and make those that are not there yet. Raises UpProblem for one that is damaged."""
        return cls(**{f.name: _one(folder / f.name.replace("_", "-")) for f in fields(cls)})

    def values(self) -> tuple[str, ...]:
        """What must never stand in a log."""
        return tuple(getattr(self, f.name) for f in fields(self))


def _one(path: Path) -> str:
    if not path.exists():
        # 32 bytes in hex: what JUPYTERHUB_CRYPT_KEY wants, and at most 64 characters, as the hub wants its api tokens.
        write_private(path, secrets.token_hex(32) + "\n")
    try:
        value = path.read_text().strip()
    except (OSError, UnicodeError) as error:
        raise UpProblem(f"The secret {path} cannot be read. Restore it from your backup and start again.") from error
    if len(value) < _LEAST:
        raise UpProblem(
            f"The secret {path} is empty or cut off. Restore it from your backup; or delete the file, and a new one is "
            "made at the next start (people then sign in once more). Nothing was changed."
        )
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return value


def first_password(folder: Path, accounts_exist: bool) -> Path:
    """The file with the first admin's password; made when nobody has an account yet.

    It stays until the password was told to the admin, so that a first start that was interrupted tells it the next
    time.
    """
    path = folder / FIRST_PASSWORD
    if not path.exists() and not accounts_exist:
        # Four groups of five: easy to type, and still 100 bits.
        alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
        groups = ("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4))
        write_private(path, "-".join(groups) + "\n")
    return path
