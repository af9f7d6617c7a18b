"""Keys and certificates of a node: one names the node to the service, the others each lease's data plane."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CHALLENGE_PREFIX = b"elara-node-v1"
LEASE_NAME = "elara-lease"
"""The DNS name in every lease's certificate; a client trusts the one certificate of its lease and no other."""
_BACKDATED = datetime.timedelta(hours=1)
_VALID = datetime.timedelta(days=400)


@dataclass(frozen=True)
class LeaseCertificate:
    """A self-signed certificate that is its own CA, and its key; both PEM, both in memory only."""

    certificate_pem: str
    key_pem: str = field(repr=False)


def lease_certificate(lease_id: str, host: str | None = None) -> LeaseCertificate:
    """Make the certificate of one lease on this node; `host` is the address that clients connect to, where known."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{LEASE_NAME} {lease_id[:8]}")])
    names: list[x509.GeneralName] = [x509.DNSName(LEASE_NAME)]
    if host:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host.strip("[]"))))
        except ValueError:
            names.append(x509.DNSName(host))
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A workspace's clock may be behind the node's.
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return LeaseCertificate(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )


def new_node_key() -> str:
    """A fresh Ed25519 key as PEM."""
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def _load(key_pem: str) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("the node's key is not an Ed25519 key")
    return key


def public_key_pem(key_pem: str) -> str:
    """The public half of a node's key, as the join request carries it."""
    public = _load(key_pem).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def sign_challenge(key_pem: str, nonce: str) -> str:
    """The answer to the service's challenge: base64 of the signature over the prefix and the nonce's text."""
    return base64.b64encode(_load(key_pem).sign(CHALLENGE_PREFIX + nonce.encode())).decode()
