"""The data folder, its secrets, its logs: what is refused, and that nothing is lost by it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from elara_hub.supervisor.folder import DataFolder
from elara_hub.supervisor.logs import PartLog
from elara_hub.supervisor.problem import UpProblem
from elara_hub.supervisor.vault import Vault, first_password


def opened(root: Path) -> DataFolder:
    folder = DataFolder(root)
    folder.open()
    return folder


def refusal(root: Path) -> str:
    with pytest.raises(UpProblem) as caught:
        DataFolder(root).open()
    return str(caught.value)


def everything(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != "up.lock"}


def test_a_new_folder_is_private_and_can_be_opened_again(tmp_path: Path) -> None:
    root = tmp_path / "a" / "data"
    opened(root).close()
    opened(root).close()
    assert root.stat().st_mode & 0o077 == 0
    assert (root / "secrets").stat().st_mode & 0o777 == 0o700


def test_a_second_instance_is_told_of_the_first(tmp_path: Path) -> None:
    first = opened(tmp_path / "data")
    first.write_status({"pid": 4711, "url": "http://127.0.0.1:8000"})
    told = refusal(first.root)
    assert "already running" in told
    assert "process 4711" in told and "http://127.0.0.1:8000" in told and "--data" in told
    first.close()
    opened(first.root).close()


def test_a_start_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / ".proxy-token.new").write_text("ab")
    (tmp_path / "up.lock").touch()
    folder = opened(tmp_path)
    vault = Vault.open(folder.secrets)
    assert len(vault.proxy_token) == 64
    assert Vault.open(folder.secrets) == vault, "secrets stay the same"
    folder.close()


@pytest.mark.parametrize("content", ["", "{", '{"format": "x"}'])
def test_a_half_written_mark_is_told_and_nothing_changes(tmp_path: Path, content: str) -> None:
    opened(tmp_path).close()
    (tmp_path / "elara-data.json").write_text(content)
    before = everything(tmp_path)
    assert "half-written" in refusal(tmp_path)
    assert everything(tmp_path) == before


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "elara.sqlite").write_bytes(b"\0" * 4096)
    told = refusal(tmp_path)
    assert str(tmp_path / "elara.sqlite") in told and "backup" in told
    (tmp_path / "elara.sqlite").write_bytes(b"")
    opened(tmp_path).close()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    told = refusal(tmp_path)
    assert "thesis.tex" in told and "--data" in told
    assert {p.name for p in tmp_path.iterdir()} <= {"thesis.tex", "up.lock"}


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "elara-data.json").write_text('{"format": 99}')
    assert "newer Elara" in refusal(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    assert "is a file" in refusal(tmp_path / "data")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 2**20))
    told = refusal(tmp_path)
    assert "10 MiB are free" in told and "--data" in told
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_was_cut_off_is_named_and_not_replaced(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    Vault.open(folder.secrets)
    (folder.secrets / "internal-token").write_text("ab")
    with pytest.raises(UpProblem, match="internal-token is empty or cut off"):
        Vault.open(folder.secrets)
    assert (folder.secrets / "internal-token").read_text() == "ab"
    folder.close()


def test_secrets_are_private_and_shown_by_nothing(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    vault = Vault.open(folder.secrets)
    for file in folder.secrets.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    assert not any(secret in repr(vault) for secret in vault.values())
    folder.close()


def test_the_first_password_stays_until_it_was_told(tmp_path: Path) -> None:
    file = first_password(tmp_path, accounts_exist=False)
    word = file.read_text()
    assert len(word.strip()) > 20
    assert first_password(tmp_path, accounts_exist=True).read_text() == word, (
        "an interrupted first start tells it again"
    )
    file.unlink()
    assert not first_password(tmp_path, accounts_exist=True).exists()


def test_logs_are_rotated_and_long_lines_do_not_pile_up(tmp_path: Path) -> None:
    log = PartLog(tmp_path, "part", ["hidden"], largest=1000, kept=2)
    for number in range(200):
        log.write(f"line {number} hid".encode())
        log.write(b"den word\n")
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part.log", "part.log.1", "part.log.2"]
    assert all(p.stat().st_size <= 1000 for p in tmp_path.iterdir())
    kept = "".join(p.read_text() for p in tmp_path.iterdir())
    assert "hidden" not in kept and "[secret] word" in kept
    assert "line 199" in (tmp_path / "part.log").read_text()
