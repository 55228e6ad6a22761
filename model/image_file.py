"""Image files as containers: what of a file reaches a decoder, and what never does.

A file from outside is read here first, as bytes: its real format, its size in pixels, its orientation. Then
it is written anew from the parts that make its first frame, and only that reaches a decoder. Texts, colour
profiles, previews, further frames and whatever follows the end of the image (a video, an archive, a page: a
polyglot file) are left behind: none of it can cost time or memory, or be taken for something else.

Knows no decoder; whether the pixels themselves are sound is the decoder's word.

Sources: PNG, W3C Recommendation of 2003 (ISO/IEC 15948); JPEG, ITU-T T.81, annex B; GIF89a; WebP, RFC 9649;
orientation, Exif 2.3, section 4.6.4.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

from model.errors import ImageTooLarge, InvalidImage

FileFormat = Literal["PNG", "JPEG", "WEBP", "GIF"]
Part = TypeVar("Part")

UNKNOWN = "the image cannot be read: it is none of PNG, JPEG, WEBP and GIF"

MAX_PARTS = 100_000
MAX_SCANS = 32
MAX_TABLE_BYTES = 64 * 1024
ORIENTATION = 0x0112

PNG = b"\x89PNG\r\n\x1a\n"
PNG_MAX_BYTES: Mapping[bytes, int] = {b"IHDR": 13, b"PLTE": 768, b"tRNS": 256}

JPEG = b"\xff\xd8"
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
TABLES = (0xC4, 0xDB, 0xDD)
FRAMES = (0xC0, 0xC1, 0xC2)
FOREIGN_FRAMES = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
END, SCAN, APP0, APP1, APP14 = 0xD9, 0xDA, 0xE0, 0xE1, 0xEE

GIF_EXTENSION, GIF_IMAGE, GIF_CONTROL = 0x21, 0x2C, 0xF9
GIF_END = b";"

WEBP_FRAME_PARTS = (b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF")
WEBP_ALPHA, WEBP_ANIMATION = 0x10, 0x02


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """What of an image file a decoder gets.

    Attributes:
        format: What the bytes are, whatever name or type they came under.
        width: Of the canvas, in pixels, before it is turned upright.
        height: Likewise.
        orientation: 1 to 8, as EXIF has it; 1 is upright.
        data: A file of this format with one frame and no metadata.
    """

    format: FileFormat
    width: int
    height: int
    orientation: int
    data: bytes


def read_image_file(data: bytes, *, max_pixels: int) -> ImageFile:
    """Take a file from outside apart and keep what makes its first frame.

    Args:
        data: The file.
        max_pixels: Most pixels of its canvas; checked as soon as the header is read.

    Raises:
        ImageTooLarge: Its header says that it has more pixels.
        InvalidImage: It is of no format read here, truncated or broken, or has more parts than pictures have.
    """
    reader = next((reader for signature, reader in READERS.items() if data.startswith(signature)), None)
    if reader is None:
        raise InvalidImage(UNKNOWN)
    try:
        return reader(data, max_pixels)
    except (struct.error, IndexError) as error:
        raise InvalidImage("the image is truncated") from error


def orientation_of(exif: bytes) -> int:
    """Return the orientation that an EXIF block names, 1 where it names none or is broken."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for index in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * index)
            if tag == ORIENTATION:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _read_png(data: bytes, max_pixels: int) -> ImageFile:
    kept: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    exif = b""
    for kind, start, end in _limited(_png_chunks(data)):
        if not kept and kind != b"IHDR":
            raise InvalidImage("the PNG does not begin with its header")
        body = data[start:end]
        if kind == b"IDAT":
            pixels.append(body)
        elif kind == b"eXIf":
            exif = body
        elif kind in PNG_MAX_BYTES:
            if kind in kept or len(body) > PNG_MAX_BYTES[kind]:
                raise InvalidImage(f"the PNG has {kind.decode()} twice, or too much of it")
            kept[kind] = body
        elif not kind[0] & 0x20 and kind != b"IEND":
            raise InvalidImage("the PNG has a part that nobody may skip and that is not in the standard")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", body)
            _check_pixels(width, height, max_pixels)
    if b"tRNS" in kept:
        kept[b"tRNS"] = _png_transparency(kept[b"IHDR"], kept[b"tRNS"])
    written = PNG + b"".join(_png_chunk(kind, body) for kind, body in sorted(kept.items()))
    written += _png_chunk(b"IDAT", b"".join(pixels)) + _png_chunk(b"IEND", b"")
    return ImageFile(format="PNG", width=width, height=height, orientation=orientation_of(exif), data=written)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's type and where its body lies, up to the end of the image."""
    position, kind = len(PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        start, end = position + 8, position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if kind in (*PNG_MAX_BYTES, b"IDAT") and zlib.crc32(data[position + 4 : end]) != checksum:
            raise InvalidImage("the PNG is broken: a checksum is wrong")
        yield kind, start, end
        position = end + 4


def _png_transparency(header: bytes, body: bytes) -> bytes:
    """Spread the clear grey of 2- and 4-bit pictures over 8 bits, as decoders spread their pixels."""
    depth, colours = header[8], header[9]
    if colours != 0 or depth not in (2, 4):
        return body
    (grey,) = struct.unpack_from(">H", body)
    return struct.pack(">H", grey * (255 // (2**depth - 1)) & 0xFFFF)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))


def _read_jpeg(data: bytes, max_pixels: int) -> ImageFile:
    size: tuple[int, int] | None = None
    kept: list[bytes] = []
    exif, prefix = b"", JPEG
    num_scans = num_table_bytes = 0
    for marker, start, end in _limited(_jpeg_segments(data)):
        body = data[start + 4 : end]
        if marker in FRAMES and size is None:
            height, width = struct.unpack_from(">HH", body, 1)
            size = width, height
            _check_pixels(width, height, max_pixels)
        elif marker in FRAMES or marker in FOREIGN_FRAMES:
            raise InvalidImage("the JPEG is neither baseline nor progressive, or has two frames")
        elif marker == SCAN:
            num_scans += 1
        elif marker == APP0 and body.startswith(b"JFIF\0"):
            prefix = JPEG + JFIF
            continue
        elif marker == APP1 and body.startswith(b"Exif\0\0") and not exif:
            exif = body[6:]
            continue
        elif marker in TABLES or (marker == APP14 and body.startswith(b"Adobe")):
            num_table_bytes += len(body)
        else:
            continue
        if num_scans > MAX_SCANS or num_table_bytes > MAX_TABLE_BYTES:
            raise InvalidImage(f"the JPEG has more than {MAX_SCANS} scans, or too many tables")
        kept.append(data[start:end])
    if size is None or not num_scans:
        raise InvalidImage("the JPEG has no picture")
    written = prefix + b"".join(kept) + bytes((0xFF, END))
    return ImageFile(
        format="JPEG", width=size[0], height=size[1], orientation=orientation_of(exif), data=written
    )


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment's marker and where it lies, a scan with its pixels, up to the end of the image."""
    position = len(JPEG)
    while True:
        start = _next_marker(data, position)
        marker = data[start + 1]
        if marker == END:
            return
        if marker <= 0xBF or marker == JPEG[1]:
            raise InvalidImage("the JPEG is broken: a marker stands where none may")
        (length,) = struct.unpack_from(">H", data, start + 2)
        position = start + 2 + length
        if length < 2 or position > len(data):
            raise InvalidImage("the JPEG is truncated")
        if marker == SCAN:
            position = _next_marker(data, position)
        yield marker, start, position


def _next_marker(data: bytes, position: int) -> int:
    found = MARKER.search(data, position)
    if found is None:
        raise InvalidImage("the JPEG is truncated")
    return found.start()


def _read_gif(data: bytes, max_pixels: int) -> ImageFile:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    palette_end = 13 + _gif_palette_bytes(flags)
    control = b""
    picture: list[bytes] = []
    for label, start, end in _limited(_gif_blocks(data, palette_end)):
        if label is None and not picture:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, start + 1)
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            if not frame_width or not frame_height or max(width, height) > 0xFFFF:
                raise InvalidImage("the GIF is broken: its picture has no size")
            _check_pixels(width, height, max_pixels)
        if label is None:
            picture.append(data[start:end])
        elif label == GIF_CONTROL and end - start == 4:
            has_clear_colour, clear_colour = data[start] & 1, data[end - 1]
            control = bytes((GIF_EXTENSION, GIF_CONTROL, 4, has_clear_colour, 0, 0, clear_colour, 0))
    screen = data[:6] + struct.pack("<HH", width, height) + data[10:palette_end]
    written = screen + control + b"".join(picture) + GIF_END
    return ImageFile(format="GIF", width=width, height=height, orientation=1, data=written)


def _gif_blocks(data: bytes, position: int) -> Iterator[tuple[int | None, int, int]]:
    """Yield each block's extension and where it lies; those of the first picture have none, and come last."""
    while data[position] == GIF_EXTENSION:
        label, position = data[position + 1], position + 2
        for start, end in _gif_sub_blocks(data, position):
            yield label, start + 1, end
            position = end
    if data[position] != GIF_IMAGE:
        raise InvalidImage("the GIF has no picture")
    start, position = position, position + 11 + _gif_palette_bytes(data[position + 9])
    yield None, start, position
    for sub_block in _gif_sub_blocks(data, position):
        yield None, *sub_block


def _gif_sub_blocks(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Yield where each lies, its length's byte included; the last one is empty."""
    size = -1
    while size:
        size = data[position]
        yield position, position + 1 + size
        position += 1 + size


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _read_webp(data: bytes, max_pixels: int) -> ImageFile:
    kept: dict[bytes, bytes] = {}
    exif = b""
    width = height = 0
    for kind, body in _limited(_webp_chunks(data)):
        if not kept:
            width, height = _webp_size(kind, body)
            _check_pixels(width, height, max_pixels)
        if kind == b"EXIF":
            exif = body.removeprefix(b"Exif\0\0")
        elif kind == b"VP8X":
            kept[kind] = bytes((body[0] & (WEBP_ALPHA | WEBP_ANIMATION),)) + body[1:]
        elif kind in WEBP_FRAME_PARTS and kind not in kept:
            kept[kind] = body
        if b"VP8X" not in kept:
            break
    chunks = b"".join(_webp_chunk(kind, body) for kind, body in kept.items())
    written = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
    return ImageFile(
        format="WEBP", width=width, height=height, orientation=orientation_of(exif), data=written
    )


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    (length,) = struct.unpack_from("<I", data, 4)
    if data[8:12] != b"WEBP":
        raise InvalidImage(UNKNOWN)
    position, file_end = 12, 8 + length
    while position < file_end:
        kind, size = struct.unpack_from("<4sI", data, position)
        start, end = position + 8, position + 8 + size
        if end > min(file_end, len(data)):
            raise InvalidImage("the WEBP is truncated")
        yield kind, data[start:end]
        position = end + size % 2


def _webp_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(body)) + body + bytes(len(body) % 2)


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    """Read the canvas from a file's first chunk."""
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise InvalidImage("the WEBP does not begin with its header or picture")


def _limited(parts: Iterator[Part]) -> Iterator[Part]:
    yield from islice(parts, MAX_PARTS)
    if next(parts, None) is not None:
        raise InvalidImage(f"the image has more than {MAX_PARTS} parts")


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(f"the image has {width}x{height} pixels, {max_pixels} in all at most")


READERS: Mapping[bytes, Callable[[bytes, int], ImageFile]] = {
    PNG: _read_png,
    JPEG: _read_jpeg,
    b"GIF87a": _read_gif,
    b"GIF89a": _read_gif,
    b"RIFF": _read_webp,
}
