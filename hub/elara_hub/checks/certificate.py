"""The TLS certificate of the public address: is it good, for this name, and for how long."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from cryptography import x509

from elara_hub.checks.finding import Finding, ok, problem, warning

SOON = timedelta(days=21)
CHECK = "certificate"
_LOCAL = ("127.0.0.1", "localhost", "::1")


def check(public_url: str, now: datetime | None = None) -> Finding:
    """Connect as a browser does. The clock is this machine's."""
    address = urlsplit(public_url)
    host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
    if address.scheme != "https":
        if host in _LOCAL:
            return ok(CHECK, f"{public_url} is for this machine only; no certificate is needed.")
        return warning(
            CHECK,
            f"{public_url} is not encrypted: passwords can be read on the way.",
            "Put TLS in front of the proxy; docs/deploy.md has an installation that does.",
        )
    now = now or datetime.now(UTC)
    try:
        found = _presented(host, port)
    except OSError as error:
        return problem(
            CHECK,
            f"Nothing speaks TLS at {host}:{port} ({error.strerror or error}).",
            "See whether the proxy runs and its port is published, and that the name leads to this machine.",
        )
    ends, names = found.not_valid_after_utc, _names(found)
    if ends <= now:
        return problem(
            CHECK, f"The certificate of {host} ran out on {ends:%Y-%m-%d}.", "Renew it and restart the proxy."
        )
    if found.not_valid_before_utc > now:
        return problem(
            CHECK,
            f"The certificate of {host} is good from {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on, which is "
            "later than this machine's clock.",
            "Set the clock right, or wait.",
        )
    reason = _refusal(host, port)
    if reason:
        if "match" in reason or "mismatch" in reason:
            return problem(
                CHECK,
                f"The certificate is for {', '.join(names) or 'no name at all'}, and not for {host}.",
                f"Get one for {host}, or set ELARA_PUBLIC_URL to a name that it is for.",
            )
        return problem(
            CHECK,
            f"The certificate of {host} is not trusted here: {reason}.",
            "Give the proxy the whole chain (the certificate, then those above it); for an authority of your own, make "
            "it known to this machine (update-ca-certificates) and to the images (images/certificates).",
        )
    if ends - now < SOON:
        return warning(CHECK, f"The certificate of {host} runs out on {ends:%Y-%m-%d}.", "Renew it soon.")
    return ok(CHECK, f"The certificate of {host} is good until {ends:%Y-%m-%d}.")


def _presented(host: str, port: int) -> x509.Certificate:
    """What the server shows, good or not."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=host) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    if shown is None:
        raise OSError("it shows no certificate")
    return x509.load_der_x509_certificate(shown)


def _refusal(host: str, port: int) -> str:
    """Why a browser would refuse it; empty when it would not."""
    context = ssl.create_default_context()
    try:
        with socket.create_connection((host, port), timeout=10) as raw, context.wrap_socket(raw, server_hostname=host):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except OSError as error:
        return str(error.strerror or error)


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]
