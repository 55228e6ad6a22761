"""Images that come in a request: texts, bytes and addresses to pictures; the only code that opens uploads.

The order is fixed: bytes are capped before anything is read, the real format and the pixels are known before
anything is allocated (model/image_file.py), and then a decoder sees only what makes a file's first frame.
Metadata, further frames and what is hidden behind a file's end are dropped rather than refused: phones write
videos and depth maps there, and nothing of a file goes on but its pixels.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from PIL import Image

from model.errors import BadRequest, InvalidImage, TooManyReferences
from model.images import open_image, open_mask
from service.fetch import Fetcher
from service.settings import Settings
from service.tracing import span

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
DATA_URL = re.compile(r"data:([^;,]*)([^,]*),", re.IGNORECASE)
TYPE_NAMES = {"": None, "application/octet-stream": None, "image/jpg": "image/jpeg"}
# What one picture takes is bounded, and few are opened at once: so is what all of them take.
OPENERS = ThreadPoolExecutor(4, thread_name_prefix="open-image")


async def read_images(
    encoded: Sequence[str | bytes], *, param: str, limit: int, settings: Settings, fetcher: Fetcher
) -> tuple[Image.Image, ...]:
    """Fetch and open every image of a request, in order.

    Args:
        encoded: Files, data: URLs, base64 or addresses.
        param: The field they came in; an error names the image after it.
        limit: Most images the task takes.
        settings: What may come in.
        fetcher: Opens addresses.

    Raises:
        TooManyReferences: Nothing was fetched or opened.
        InvalidImage: One of them cannot be fetched, or is no picture.
        ImageTooLarge: One of them has too many bytes or pixels.
    """
    names = name_images(encoded, param=param, limit=limit)
    files = await fetch_files(encoded, names, fetcher)
    opening = partial(open_images, files, param=param, limit=limit, settings=settings)
    return await asyncio.get_running_loop().run_in_executor(OPENERS, opening)


async def read_mask(encoded: str | bytes, *, param: str, settings: Settings, fetcher: Fetcher) -> Image.Image:
    """Fetch and open an edit's mask as Drawing has it: where the picture may change.

    Raises:
        InvalidImage: As read_images, or it is no PNG.
        ImageTooLarge: As read_images.
    """
    (file,) = await fetch_files([encoded], [param], fetcher)
    opening = partial(open_one, file, param, settings, opener=open_mask)
    return await asyncio.get_running_loop().run_in_executor(OPENERS, opening)


def open_images(
    encoded: Sequence[str | bytes], *, param: str, limit: int, settings: Settings
) -> tuple[Image.Image, ...]:
    """Open every image of a request that is there already; raises as read_images."""
    names = name_images(encoded, param=param, limit=limit)
    return tuple(open_one(item, name, settings) for item, name in zip(encoded, names, strict=True))


def name_images(encoded: Sequence[str | bytes], *, param: str, limit: int) -> list[str]:
    """Return what errors call each image: the field, with a number where there are several.

    Raises:
        TooManyReferences: There are more than the limit.
    """
    if len(encoded) > limit:
        raise TooManyReferences(f"{len(encoded)} images, {limit} at most", param=param)
    return [f"{param}.{index}" if len(encoded) > 1 else param for index in range(len(encoded))]


def open_one(
    encoded: str | bytes, param: str, settings: Settings, *, opener: Callable[..., Image.Image] = open_image
) -> Image.Image:
    """Open one image; raises as read_images."""
    data, media_type = (encoded, None) if isinstance(encoded, bytes) else decode_text(encoded, param)
    try:
        return opener(
            data,
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            media_type=media_type,
        )
    except InvalidImage as error:
        raise type(error)(f"{param}: {error}", param=param) from error


def decode_text(text: str, param: str) -> tuple[bytes, str | None]:
    """Return the bytes of a data: URL or of base64, and the type that the URL says they have.

    Raises:
        InvalidImage: It is neither.
    """
    head = DATA_URL.match(text)
    if head and not head[2].lower().endswith(";base64"):
        raise InvalidImage(
            f"{param}: a data: URL must be base64, as in data:image/png;base64,...", param=param
        )
    said = head[1].strip().lower() if head else ""
    try:
        data = base64.b64decode("".join(text[head.end() if head else 0 :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"{param}: neither a data: URL nor base64", param=param) from error
    return data, TYPE_NAMES.get(said, said)


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


async def fetch_files(
    encoded: Sequence[str | bytes], names: Sequence[str], fetcher: Fetcher
) -> list[str | bytes]:
    """Put files where addresses are, all at once; the first refusal ends the others."""

    async def file_of(item: str | bytes, name: str) -> str | bytes:
        if isinstance(item, str) and ADDRESS.match(item.strip()):
            with span("fetch"):
                return await fetcher.fetch(item.strip(), param=name)
        return item

    try:
        async with asyncio.TaskGroup() as group:
            files = [group.create_task(file_of(*pair)) for pair in zip(encoded, names, strict=True)]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [file.result() for file in files]
