"""The certificates of a fleet: an authority of its own, and one for its server. Nothing here but the making of them."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BACKDATED: Final = timedelta(days=1)
"""A machine whose clock is a little behind believes them too."""
_CA_VALID: Final = timedelta(days=3650)
_SERVER_VALID: Final = timedelta(days=825)
"""The longest that every client accepts."""


class Certificate(NamedTuple):
    """A certificate and its private key, as PEM."""

    certificate: str
    key: str


def new_ca(*, now: float) -> Certificate:
    """An authority that signs nothing but servers of this fleet."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SOLLOL Bus fleet")])
    usage = x509.KeyUsage(
        digital_signature=False,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _begun(name, name, key.public_key(), now, _CA_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Certificate(_pem(builder.sign(key, hashes.SHA256())), _pem_of_key(key))


def new_server(ca: Certificate, hosts: Sequence[str], *, now: float) -> Certificate:
    """A certificate for a server that is reached under these names and addresses.

    Raises:
        ValueError: A host is neither.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(ca.certificate.encode())
    signer = serialization.load_pem_private_key(ca.key.encode(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SOLLOL Bus server")])
    builder = (
        _begun(name, issuer.subject, key.public_key(), now, _SERVER_VALID)
        .add_extension(x509.SubjectAlternativeName([_named(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Certificate(_pem(builder.sign(signer, hashes.SHA256())), _pem_of_key(key))


def fingerprint(certificate: str) -> bytes:
    """The SHA-256 of a certificate.

    Raises:
        ValueError: It is none.
    """
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.strip() + "\n")).digest()


def _named(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, valid: timedelta
) -> x509.CertificateBuilder:
    begins = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - _BACKDATED)
        .not_valid_after(begins + valid)
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
