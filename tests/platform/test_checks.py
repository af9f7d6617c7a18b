"""`elara admin check`: what it says of certificates, disks, permissions and parts that are away, and what to do."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from elara_hub.checks import certificate, machine, parts
from elara_hub.checks.finding import OK, PROBLEM, WARNING, Finding
from elara_hub.checks.surroundings import Surroundings, find

_NOW = dt.datetime.now(dt.UTC)


def make_certificate(folder: Path, name: str, days: float) -> tuple[Path, Path]:
    """A self-signed one for `name` that ends in `days`; returns certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    try:
        names: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        names = x509.DNSName(name)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW - dt.timedelta(days=90))
        .not_valid_after(_NOW + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return pem, secret


@asynccontextmanager
async def tls_server(pem: Path, key: Path) -> AsyncIterator[int]:
    """Speaks TLS with that certificate; yields the port on 127.0.0.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, key)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("name", "days", "trusted", "state", "words"),
    [
        ("127.0.0.1", 60, True, OK, "is good until"),
        ("127.0.0.1", 5, True, WARNING, "runs out on"),
        ("127.0.0.1", -1, True, PROBLEM, "ran out on"),
        ("other.example.org", 60, True, PROBLEM, "is for other.example.org, and not for 127.0.0.1"),
        ("127.0.0.1", 60, False, PROBLEM, "is not trusted here"),
    ],
)
async def test_a_certificate_is_told_by_what_is_wrong_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, days: float, trusted: bool, state: str, words: str
) -> None:
    pem, key = make_certificate(tmp_path, name, days)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    async with tls_server(pem, key) as port:
        found = await asyncio.to_thread(certificate.check, f"https://127.0.0.1:{port}")
    assert (found.state, bool(found.next_step)) == (state, state != OK), found
    assert words in found.message


def test_an_address_without_tls_is_a_warning_unless_it_is_local() -> None:
    assert certificate.check("http://127.0.0.1:8000").state == OK
    assert certificate.check("http://elara.example.org").state == WARNING
    nothing = certificate.check("https://127.0.0.1:9")
    assert nothing.state == PROBLEM and "Nothing speaks TLS" in nothing.message


def test_secrets_that_others_can_read_are_named(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "internal-token").write_text("x")
    (secrets / "internal-token").chmod(0o600)
    assert next(f.state for f in machine.check(tmp_path)) == OK
    (secrets / "internal-token").chmod(0o644)
    found = next(machine.check(tmp_path))
    assert found.state == PROBLEM and "internal-token (mode 0644)" in found.message and "chmod" in found.next_step
    assert next(machine.check(tmp_path / "nowhere")).state == PROBLEM


def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"free": 100 * 2**20}

    class Usage:
        total = 10 * 2**30

        @property
        def free(self) -> int:
            return sizes["free"]

    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: Usage())
    states = []
    for free in (100 * 2**20, 2 * 2**30, 8 * 2**30):
        sizes["free"] = free
        states.append(next(f for f in machine.check(tmp_path) if f.check == "disk").state)
    assert states == [PROBLEM, WARNING, OK]


def test_parts_that_are_away_are_each_told_of(tmp_path: Path) -> None:
    away = "http://127.0.0.1:9"
    here = Surroundings(tmp_path, away, away, away, away, "local", "", "", "", True, "x" * 32)
    found = {finding.check: finding for finding in parts.check(here)}
    assert set(found) == {"hub", "service", "mlflow", "proxy"}
    for name, finding in found.items():
        assert finding.state == PROBLEM and "takes no connection" in finding.message, finding
        assert f"logs/{name}.log" in finding.next_step


def test_nodes_that_are_away_or_broken_are_told_of() -> None:
    healthy, broken = {"healthy": True}, {"healthy": False, "fault": "fell off the bus"}
    nodes = [
        {"name": "a", "connected": True, "devices": [healthy, healthy]},
        {"name": "b", "connected": False, "last_seen": "2026-01-01T00:00:00Z", "devices": [healthy]},
        {"name": "c", "connected": True, "devices": [healthy, broken]},
    ]
    found: list[Finding] = list(parts._nodes(nodes))
    assert [finding.state for finding in found] == [OK, PROBLEM, WARNING]
    assert "2026-01-01" in found[1].message and "fell off the bus" in found[2].message
    assert "elara nodes token" in next(iter(parts._nodes([]))).next_step


def test_where_nothing_runs_that_is_what_is_said(tmp_path: Path) -> None:
    assert find(tmp_path, {}) is None
    # What a killed `elara up` left behind names no running instance.
    (tmp_path / "up.json").write_text(json.dumps({"pid": 2**22 + 1, "url": "http://x", "parts": {}}))
    assert find(tmp_path, {}) is None
    told = find(tmp_path, {"ELARA_SERVICE_URL": "http://service:10101/", "ELARA_ENGINE": "docker"})
    assert told is not None and (told.service_url, told.engine) == ("http://service:10101", "docker")
