"""Keys that sign pictures, and certificates that say whose they are: an operator's, or made for development.

C2PA asks for a certificate that an authority has signed: the development key brings its own authority, which
nobody else trusts.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from model.errors import ModelError

KEY_FILE = "key.pem"
CERTIFICATE_FILE = "certificate.pem"
DEVELOPMENT = "hbridge development, not for production"
DEVELOPMENT_DAYS = 3650
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


class UnusableKey(ModelError):
    """A signing key or certificate that cannot sign pictures; says which setting to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key and its certificates.

    Attributes:
        key: PEM, PKCS 8.
        certificates: PEM, the key's own first, then those of its issuers.
        algorithm: C2PA's name of it.
    """

    key: bytes
    certificates: bytes
    algorithm: str

    @property
    def holder(self) -> tuple[str, str]:
        """The organisation and the common name that the certificate was issued to."""
        subject = x509.load_pem_x509_certificates(self.certificates)[0].subject
        return _name(subject, NameOID.ORGANIZATION_NAME), _name(subject, NameOID.COMMON_NAME)

    @property
    def anchor(self) -> bytes:
        """The last certificate as PEM, if it is an authority's; whoever trusts it trusts the key."""
        last = x509.load_pem_x509_certificates(self.certificates)[-1]
        try:
            is_authority = last.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_authority = False
        return last.public_bytes(Encoding.PEM) if is_authority else b""


def load_key(key_file: Path, certificate_file: Path) -> SigningKey:
    """Read an operator's key.

    Raises:
        OSError: A file cannot be read.
        UnusableKey: It holds something else, or the two do not belong together.
    """
    try:
        key = load_pem_private_key(key_file.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableKey(f"signing_key: {key_file} is no private key in PEM without a password") from error
    try:
        certificates = x509.load_pem_x509_certificates(certificate_file.read_bytes())
    except ValueError as error:
        raise UnusableKey(f"signing_certificate: {certificate_file} is no certificate in PEM") from error
    if certificates[0].public_key() != key.public_key():
        raise UnusableKey(
            f"signing_certificate: the first certificate of {certificate_file} is not that of {key_file}"
        )
    return _signing_key(key, certificates)


def development_key(folder: Path) -> SigningKey:
    """Return the development key of a folder, made if there is none.

    Raises:
        OSError: It cannot be written.
    """
    key_file, certificate_file = folder / KEY_FILE, folder / CERTIFICATE_FILE
    if not certificate_file.exists():
        with suppress(FileExistsError):  # another server made it at the same time
            write_key(make_development_key(), folder)
    return load_key(key_file, certificate_file)


def make_development_key() -> SigningKey:
    """Make a key and an authority of its own, whose key is thrown away."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, subject = _subject("hbridge development authority"), _subject("hbridge development key")
    root = (
        _certificate(issuer, issuer, authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    leaf = (
        _certificate(subject, issuer, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
        .sign(authority, hashes.SHA256())
    )
    return _signing_key(key, [leaf, root])


def write_key(key: SigningKey, folder: Path) -> None:
    """Write a key's two files into a new folder, which is there as a whole or not at all.

    Raises:
        OSError: It cannot be written; FileExistsError if the folder is there and not empty.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        part = Path(place) / folder.name
        part.mkdir(mode=0o700)
        (part / KEY_FILE).touch(mode=0o600)
        (part / KEY_FILE).write_bytes(key.key)
        (part / CERTIFICATE_FILE).write_bytes(key.certificates)
        try:
            part.rename(folder)
        except OSError as error:
            if folder.exists():
                raise FileExistsError(f"{folder} is there already; name another or remove it") from error
            raise


def _signing_key(key: PrivateKeyTypes, certificates: Sequence[x509.Certificate]) -> SigningKey:
    return SigningKey(
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificates=b"".join(each.public_bytes(Encoding.PEM) for each in certificates),
        algorithm=_algorithm(key),
    )


def _algorithm(key: PrivateKeyTypes) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise UnusableKey("signing_key: C2PA signs with P-256, P-384, P-521, RSA or Ed25519; make a key of these")


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + timedelta(days=DEVELOPMENT_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, DEVELOPMENT),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _name(subject: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = subject.get_attributes_for_oid(oid)
    return str(found[0].value) if found else ""
