"""Where pictures come from, said with them by default: a signed statement in the file, a mark in the pixels.

Made once for an app from its settings. Encoding, marking and signing take milliseconds, so not on the event
loop.
"""

import logging
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from PIL.Image import Image

from model.images import Format, encode_image
from service import watermark
from service.certificates import SigningKey, UnusableKey, development_key, load_key, make_development_key
from service.content_credentials import ContentCredentials
from service.manifest import Statement
from service.schemas.answers import ProvenanceData
from service.schemas.verify import VerifyAnswer, WatermarkData
from service.settings import Settings
from service.tracing import span

log = logging.getLogger(__name__)

OFF = "provenance is turned off (HBRIDGE_PROVENANCE)"
NO_WATERMARK = "the watermark is turned off (HBRIDGE_WATERMARK)"
MASKED = "no watermark: what the mask lets nothing change comes back bit by bit"
SMALL = f"no watermark: a side is below {watermark.MIN_SIDE} pixels, where it does not survive"


class Provenance:
    """Writes pictures' files with what is stated of them, and tells what files have.

    Raises:
        UnusableKey: The key or certificate of the settings cannot sign.
        OSError: A file of the settings cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._is_on = settings.provenance == "on"
        self._has_watermark = settings.watermark
        self._states_prompt = settings.provenance_prompt
        self._credentials = ContentCredentials(
            _own_key(settings),
            anchors=_anchors(settings.trust_anchors),
            timestamp_url=settings.timestamp_url,
        )

    def plan(self, image: Image, *, has_mask: bool = False) -> ProvenanceData:
        """Say what a picture's file will have, and why it will not have the rest."""
        if not self._is_on:
            return ProvenanceData(content_credentials=False, watermark=False, reasons=[OFF])
        reason = (
            NO_WATERMARK
            if not self._has_watermark
            else MASKED
            if has_mask
            else SMALL
            if not watermark.is_markable(*image.size)
            else None
        )
        return ProvenanceData(
            content_credentials=True, watermark=reason is None, reasons=[reason] if reason else []
        )

    def write(
        self,
        image: Image,
        image_format: Format,
        compression: int | None,
        statement: Statement,
        *,
        has_mask: bool = False,
    ) -> bytes:
        """Write a picture as a file, marked and signed as planned.

        Args:
            image: RGB.
            image_format: Of the file.
            compression: As model.images.encode_image.
            statement: What is stated; its prompt only if the operator wants that.
            has_mask: The picture is an edit that must come back as it is outside of a mask.

        Raises:
            BadRequest: As encode_image.
        """
        plan = self.plan(image, has_mask=has_mask)
        marked = watermark.mark(image) if plan.watermark else image
        file = encode_image(marked, image_format, compression)
        if not plan.content_credentials:
            return file
        stated = statement if self._states_prompt else replace(statement, prompt=None)
        with span("sign"):
            return self._credentials.sign(file, image_format, stated, is_marked=plan.watermark)

    def verify(self, file: bytes, image: Image) -> VerifyAnswer:
        """Tell what a picture's file says of where it comes from.

        Args:
            file: As it came.
            image: What is in it, opened.
        """
        credentials, mark = self._credentials.read(file), watermark.read(image)
        return VerifyAnswer(
            is_ours=credentials.ours or mark.is_found,
            content_credentials=credentials,
            watermark=WatermarkData(
                present=mark.is_found, score=round(mark.score, 2), threshold=watermark.THRESHOLD
            ),
        )


def _own_key(settings: Settings) -> SigningKey | None:
    key, certificate = settings.signing_key, settings.signing_certificate
    if key and certificate:
        return load_key(key, certificate)
    if key or certificate:
        missing = "signing_certificate" if key else "signing_key"
        raise UnusableKey(f"{missing}: set it too; a key signs with its certificate")
    folder = settings.data_dir / "development-key"
    if settings.provenance == "off":
        return development_key(folder) if folder.exists() else None
    log.info(
        "pictures are signed with the development key in %s, which nobody else trusts; "
        "set HBRIDGE_SIGNING_KEY and HBRIDGE_SIGNING_CERTIFICATE",
        folder,
    )
    try:
        return development_key(folder)
    except OSError as error:
        log.warning("the development key cannot be kept, and changes with the next start: %s", error)
        return make_development_key()


def _anchors(file: Path | None) -> bytes:
    """Read certificates to trust.

    Raises:
        OSError: The file cannot be read.
        UnusableKey: It holds none.
    """
    if file is None:
        return b""
    data = file.read_bytes()
    try:
        x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise UnusableKey(f"trust_anchors: {file} holds no certificates in PEM") from error
    return data
