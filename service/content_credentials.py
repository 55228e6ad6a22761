"""Content credentials, the C2PA standard: a signed statement in a picture's file, written and read.

Knows files as bytes; what is drawn or decoded is somebody else's. Opens no network connection, except to a
time stamp authority where one is set.
"""

import json
from io import BytesIO
from typing import NamedTuple

import c2pa
from pydantic import ValidationError

from model.images import Format
from service.certificates import SigningKey, UnusableKey
from service.manifest import MAX_CHARS, Manifest, Statement, definition, ingredients, shortened
from service.schemas.verify import CredentialsData

MAX_CARRIED_BYTES = 2**20
"""Of credentials that images bring along; beyond this they are dropped, and the images only named."""

CONTENT_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
PIXEL = b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"


class ContentCredentials:
    """Writes credentials with one key, and reads anybody's; may be shared by threads.

    Args:
        key: None only reads.
        anchors: PEM certificates that are trusted beside the key's own authority.
        timestamp_url: Of an RFC 3161 authority.

    Raises:
        UnusableKey: What the key signs would not be valid.
    """

    def __init__(
        self, key: SigningKey | None, *, anchors: bytes = b"", timestamp_url: str | None = None
    ) -> None:
        own = key.anchor if key else b""
        self._own, self._trusted = _context(own), _context(own + anchors)
        self._holder = key.holder if key else None
        self._signer = None
        if key is not None:
            check_key(key)
            self._signer = _signer(key, timestamp_url)

    @property
    def can_sign(self) -> bool:
        """Whether there is a key."""
        return self._signer is not None

    def sign(self, file: bytes, image_format: Format, statement: Statement, *, is_marked: bool) -> bytes:
        """Return a picture's file with a signed statement in it; as manifest.definition.

        Args:
            file: Without credentials.
        """
        signed = self._sign(file, image_format, statement, is_marked=is_marked, carries_files=True)
        if len(signed) > len(file) + MAX_CARRIED_BYTES:
            return self._sign(file, image_format, statement, is_marked=is_marked, carries_files=False)
        return signed

    def _sign(
        self, file: bytes, image_format: Format, statement: Statement, *, is_marked: bool, carries_files: bool
    ) -> bytes:
        named, carried = [], []
        for ingredient, source in zip(ingredients(statement), statement.sources, strict=True):
            file_of_it = source.file if carries_files else None
            kind = self._kind_with_credentials(file_of_it) if file_of_it else None
            if file_of_it and kind:
                carried.append((ingredient, kind, file_of_it))
            else:
                named.append(ingredient)
        stated = definition(statement, is_marked=is_marked) | {"ingredients": named}
        signed = BytesIO()
        with c2pa.Builder(stated, self._own) as builder:
            for ingredient, kind, data in carried:
                builder.add_ingredient(ingredient, kind, BytesIO(data))
            builder.sign(self._signer, f"image/{image_format}", BytesIO(file), signed)
        return signed.getvalue()

    def _kind_with_credentials(self, file: bytes) -> str | None:
        """Return the content type of a file that has credentials which can be read, else None."""
        kind = next((kind for magic, kind in CONTENT_TYPES.items() if file.startswith(magic)), None)
        try:
            has_any = bool(kind) and _read(file, self._own) is not None
        except (c2pa.C2paError, ValidationError):
            return None
        return kind if has_any else None

    def read(self, file: bytes) -> CredentialsData:
        """Say what credentials a picture's file has, and whether they hold."""
        try:
            found, own = _read(file, self._trusted), _read(file, self._own)
        except (c2pa.C2paError, ValidationError) as error:
            # A file without the standard's name in it has none, whatever the reader stumbled over.
            return _nothing_read(is_present=b"c2pa" in file, problem=str(error))
        if found is None or own is None:
            return _nothing_read(is_present=False)
        signature = found.manifest.signature_info
        return CredentialsData(
            present=True,
            valid=found.is_valid,
            trusted=found.is_trusted,
            ours=own.is_trusted and (signature.issuer, signature.common_name) == self._holder,
            issuer=shortened(signature.issuer),
            common_name=shortened(signature.common_name),
            problems=found.problems,
            statement=found.manifest.statement(),
        )


def check_key(key: SigningKey) -> None:
    """Sign and check a picture of one pixel, without a time stamp.

    Raises:
        UnusableKey: That does not work; says why.
    """
    stated = definition(Statement(model="", weights_sha256=""), is_marked=False)
    context = _context(key.anchor, verify_after_sign=True)
    try:
        with c2pa.Builder(stated, context) as builder, _signer(key, None) as signer:
            builder.sign(signer, "image/gif", BytesIO(PIXEL), BytesIO())
    except c2pa.C2paError as error:
        raise UnusableKey(
            f"signing_certificate: C2PA cannot sign with it: {str(error)[:MAX_CHARS]}; it must be valid now, "
            "issued by an authority, and meant for signing documents or mail"
        ) from error


class _Found(NamedTuple):
    state: str
    problems: list[str]
    manifest: Manifest

    @property
    def is_trusted(self) -> bool:
        return self.state == "Trusted"

    @property
    def is_valid(self) -> bool:
        return self.state in ("Trusted", "Valid")


def _read(file: bytes, context: c2pa.Context) -> _Found | None:
    """Read a file's credentials, if it has any.

    Raises:
        C2paError: It cannot be read.
        ValidationError: It is of a form that is not known.
    """
    reader = c2pa.Reader.try_create(None, BytesIO(file), context=context)
    if reader is None:
        return None
    with reader:
        told = json.loads(reader.json())
    failures = told.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    return _Found(
        state=told["validation_state"],
        problems=[f"{each['code']}: {each.get('explanation', '')}"[:MAX_CHARS] for each in failures],
        manifest=Manifest.model_validate(told["manifests"][told["active_manifest"]]),
    )


def _nothing_read(*, is_present: bool, problem: str | None = None) -> CredentialsData:
    return CredentialsData(
        present=is_present,
        valid=False,
        trusted=False,
        ours=False,
        issuer=None,
        common_name=None,
        problems=[problem[:MAX_CHARS]] if problem else [],
        statement=None,
    )


def _context(anchors: bytes, *, verify_after_sign: bool = False) -> c2pa.Context:
    return c2pa.Context.from_dict(
        {
            "verify": {
                "remote_manifest_fetch": False,
                "ocsp_fetch": False,
                "verify_after_sign": verify_after_sign,
            },
            "trust": {"user_anchors": anchors.decode()} if anchors else {},
            "builder": {"thumbnail": {"enabled": False}},
        }
    )


def _signer(key: SigningKey, timestamp_url: str | None) -> c2pa.Signer:
    info = c2pa.C2paSignerInfo(key.algorithm, key.certificates, key.key, timestamp_url)
    return c2pa.Signer.from_info(info)
