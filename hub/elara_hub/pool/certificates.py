"""The service's own certificate authority: it vouches for nodes, so that a node is who it was when it joined."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from elara_hub.config import Settings, write_secret
from elara_hub.contract import NODE_SIGNATURE_PREFIX
from elara_hub.refusal import Refusal, invalid

_YEARS = timedelta(days=3650)


class NodeAuthority:
    """Reads its key from the data folder's secrets, or makes one at the first start."""

    def __init__(self, settings: Settings) -> None:
        path = settings.secret_file("node-ca.pem")
        if not path.exists():
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_secret(path, pem + _self_signed(key).public_bytes(serialization.Encoding.PEM))
        content = path.read_bytes()
        key_loaded = serialization.load_pem_private_key(content, password=None)
        if not isinstance(key_loaded, Ed25519PrivateKey):
            raise ValueError(
                f"{path} does not hold an Ed25519 key: restore it from a backup, or move it away to begin "
                "anew (every node must join again then)"
            )
        self._key = key_loaded
        self._certificate = x509.load_pem_x509_certificate(content[content.index(b"-----BEGIN CERTIFICATE") :])

    @property
    def ca_pem(self) -> str:
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def certify(self, node_id: str, public_key_pem: str) -> str:
        """A certificate (PEM) that says: the holder of this key is this node.

        Raises:
            Refusal: the key is no Ed25519 public key.
        """
        key = _public_key(public_key_pem)
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(node_id))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + _YEARS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, algorithm=None)
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def verify(self, certificate_pem: str, nonce: str, signature: bytes) -> tuple[str, str]:
        """Check a node's certificate and its answer to a challenge; returns (node id, public key PEM).

        Raises:
            Refusal: the certificate is not ours, or the signature is not of its key.
        """
        unproven = Refusal(
            "node_not_proven",
            "The node could not prove who it is: its certificate is not of this service, or not its own.",
            "Join the node again with a new token (elara nodes token).",
            status=403,
        )
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
            certificate.verify_directly_issued_by(self._certificate)
            key = certificate.public_key()
            if not isinstance(key, Ed25519PublicKey) or certificate.not_valid_after_utc < datetime.now(UTC):
                raise unproven
            key.verify(signature, (NODE_SIGNATURE_PREFIX + nonce).encode())
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            raise unproven from None
        return str(names[0].value), _pem(key)


def _self_signed(key: Ed25519PrivateKey) -> x509.Certificate:
    now = datetime.now(UTC)
    name = _name("Elara nodes")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + 2 * _YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, algorithm=None)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _public_key(pem: str) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise invalid("public_key_pem is not an Ed25519 public key in PEM form.", "Update the node's agent.")
    return key


def _pem(key: Ed25519PublicKey) -> str:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
