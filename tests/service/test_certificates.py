from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from service.certificates import (
    CERTIFICATE_FILE,
    KEY_FILE,
    SigningKey,
    UnusableKey,
    development_key,
    load_key,
    make_development_key,
    write_key,
)


def pem(key: object, password: bytes | None = None) -> bytes:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)  # type: ignore[attr-defined]


@pytest.fixture
def development(tmp_path: Path) -> tuple[SigningKey, Path]:
    return development_key(tmp_path / "new" / "key"), tmp_path / "new" / "key"


def test_the_development_key_is_made_once(development: tuple[SigningKey, Path]) -> None:
    key, folder = development
    assert development_key(folder) == key
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_only_the_user_reads_the_key(development: tuple[SigningKey, Path]) -> None:
    _, folder = development
    assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_development_certificate_says_what_it_is_and_who_issued_it() -> None:
    key = make_development_key()
    leaf, root = x509.load_pem_x509_certificates(key.certificates)
    assert "not for production" in key.holder[0]
    leaf.verify_directly_issued_by(root)
    assert key.anchor == root.public_bytes(serialization.Encoding.PEM)
    assert leaf.not_valid_after_utc > datetime.now(UTC) + timedelta(days=365)


def test_a_certificate_alone_brings_no_authority_to_trust() -> None:
    key = make_development_key()
    leaf, _ = x509.load_pem_x509_certificates(key.certificates)
    alone = SigningKey(
        key=key.key,
        certificates=leaf.public_bytes(serialization.Encoding.PEM),
        algorithm=key.algorithm,
    )
    assert alone.anchor == b""


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="already"):
        write_key(make_development_key(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: ec.generate_private_key(ec.SECP256R1()), "es256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "es384"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "es512"),
        (lambda: rsa.generate_private_key(65537, 2048), "ps256"),
        (ed25519.Ed25519PrivateKey.generate, "ed25519"),
    ],
)
def test_an_operators_key_may_be_of_any_kind_that_c2pa_has(
    tmp_path: Path, make: Callable[[], object], algorithm: str
) -> None:
    assert load_key(*files_of(tmp_path, make())).algorithm == algorithm


@pytest.mark.parametrize(
    "make", [lambda: ec.generate_private_key(ec.SECP256K1()), lambda: dsa.generate_private_key(2048)]
)
def test_a_key_of_another_kind_is_refused(tmp_path: Path, make: Callable[[], object]) -> None:
    with pytest.raises(UnusableKey, match="P-256"):
        load_key(*files_of(tmp_path, make()))


def test_files_that_cannot_sign_are_refused_by_name(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    good_key, good_certificate = files_of(tmp_path, key)
    (tmp_path / "locked.pem").write_bytes(pem(key, b"secret"))
    (tmp_path / "other.pem").write_bytes(pem(ed25519.Ed25519PrivateKey.generate()))
    (tmp_path / "text.pem").write_text("text")
    for wrong in ("locked.pem", "text.pem"):
        with pytest.raises(UnusableKey, match=f"signing_key: .*{wrong}"):
            load_key(tmp_path / wrong, good_certificate)
    with pytest.raises(UnusableKey, match=r"signing_certificate: .*text\.pem"):
        load_key(good_key, tmp_path / "text.pem")
    with pytest.raises(UnusableKey, match="is not that of"):
        load_key(tmp_path / "other.pem", good_certificate)
    with pytest.raises(FileNotFoundError):
        load_key(tmp_path / "none.pem", good_certificate)


def files_of(folder: Path, key: object) -> tuple[Path, Path]:
    """Write a key, and a certificate that it has signed itself."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())  # type: ignore[attr-defined]
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())  # type: ignore[arg-type]
    )
    (folder / KEY_FILE).write_bytes(pem(key))
    (folder / CERTIFICATE_FILE).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return folder / KEY_FILE, folder / CERTIFICATE_FILE
