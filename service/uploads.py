"""Images that come in a request: text or bytes to pictures. The only code that opens an uploaded file."""

import base64
import binascii
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from model.errors import BadRequest, InvalidImage, TooManyReferences
from model.images import open_image
from service.errors import ImageTooLarge
from service.settings import Settings


def open_images(
    encoded: Sequence[str | bytes], *, param: str, limit: int, settings: Settings
) -> tuple[Image.Image, ...]:
    """Open every image of a request, in order.

    Args:
        encoded: Files, data: URLs or base64.
        param: The field they came in; an error names the image after it.
        limit: Most images the task takes.

    Raises:
        TooManyReferences: Nothing was opened.
        InvalidImage: One of them is no picture.
        ImageTooLarge: One of them has too many pixels.
    """
    if len(encoded) > limit:
        raise TooManyReferences(f"{len(encoded)} images, {limit} at most", param=param)
    names = [f"{param}.{index}" if len(encoded) > 1 else param for index in range(len(encoded))]
    return tuple(open_one(item, name, settings) for item, name in zip(encoded, names, strict=True))


def open_one(encoded: str | bytes, param: str, settings: Settings) -> Image.Image:
    """Open one image; raises as open_images."""
    data = encoded if isinstance(encoded, bytes) else decode_text(encoded, param)
    try:
        return open_image(data, max_bytes=settings.max_body_bytes, max_pixels=settings.max_image_pixels)
    except InvalidImage as error:
        # A limit is refused as such; a broken file is refused because of what the decoder said.
        is_limit = error.__cause__ is None or isinstance(error.__cause__, Image.DecompressionBombError)
        kind: type[ImageTooLarge | InvalidImage] = ImageTooLarge if is_limit else InvalidImage
        raise kind(f"{param}: {error}", param=param) from error


def read_mask(encoded: str | bytes, settings: Settings) -> Image.Image:
    """Open an edit's mask as Drawing has it: where the picture may change.

    That is where it is wholly transparent, or, if it has no transparency, white.

    Raises:
        InvalidImage: It is no PNG.
        ImageTooLarge: It has too many pixels.
    """
    data = encoded if isinstance(encoded, bytes) else decode_text(encoded, "mask")
    open_one(data, "mask", settings)  # within the limits, and whole
    try:
        file = Image.open(BytesIO(data), formats=("PNG",))
    except UnidentifiedImageError as error:
        raise InvalidImage("mask: it must be a PNG", param="mask") from error
    with file as image:
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            opacity = np.asarray(upright.convert("RGBA").getchannel("A"))
            return Image.fromarray(opacity == 0)
        if upright.mode.startswith("I"):
            return Image.fromarray(np.asarray(upright) == 2**16 - 1)
        return Image.fromarray((np.asarray(upright.convert("RGB")) == 255).all(-1))


def decode_text(text: str, param: str) -> bytes:
    """Return the bytes of a data: URL or of base64.

    Raises:
        InvalidImage: It is neither.
    """
    is_url = text[:5].lower() == "data:"
    head, _, tail = text.partition(",") if is_url else ("", "", text)
    if is_url and not head.lower().endswith(";base64"):
        raise InvalidImage(
            f"{param}: a data: URL must be base64, as in data:image/png;base64,...", param=param
        )
    if text[:8].lower().startswith(("http://", "https://")):
        raise InvalidImage(
            f"{param}: this server opens no remote addresses; send a data: URL or base64", param=param
        )
    try:
        return base64.b64decode("".join(tail.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"{param}: neither a data: URL nor base64", param=param) from error


def pick_images(
    image: Sequence[str | bytes] | None, images: Sequence[str | bytes] | None
) -> tuple[Sequence[str | bytes], str]:
    """Return the one of both fields that is used, and its name.

    Raises:
        BadRequest: Both are.
    """
    if image is not None and images is not None:
        raise BadRequest("image and images say the same; give one of them", param="images")
    return (images, "images") if images is not None else (image or [], "image")
