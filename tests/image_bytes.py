"""Image files made byte by byte: sound ones, and ones that no tool would write."""

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6


def as_file(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format=image_format, **options)
    return file.getvalue()


def noise(width: int = 20, height: int = 12, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """Return a PNG's chunk with the checksum it ought to have."""
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(
    width: int, height: int, *, depth: int = 8, colours: int = COLOUR, interlace: int = 0
) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlace))


def png(header: bytes, rows: bytes, *extra: bytes, after: Sequence[bytes] = ()) -> bytes:
    """Return a PNG of a header, chunks, rows with their filter bytes, and more chunks."""
    parts = (*extra, chunk(b"IDAT", zlib.compress(rows)), *after, chunk(b"IEND"))
    return SIGNATURE + header + b"".join(parts)


def png_with(*extra: bytes) -> bytes:
    """Return a small sound PNG with chunks after its header."""
    return png(png_header(2, 1), b"\0" + bytes(6), *extra)


def segment(marker: int, body: bytes = b"") -> bytes:
    """Return a JPEG's segment."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def jpeg(**options: Any) -> bytes:
    return as_file(noise(32, 24), "JPEG", **options)


def jpeg_with(*segments: bytes) -> bytes:
    """Return a small sound JPEG with segments after its start."""
    whole = jpeg()
    return whole[:2] + b"".join(segments) + whole[2:]


def riff(*chunks: tuple[bytes, bytes], length: int | None = None) -> bytes:
    """Return a WebP file of chunks, and of a length it may lie about."""
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) if length is None else length) + body


def webp_canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    """Return a WebP's extended header."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes((flags, 0, 0, 0)) + sides


def gif_screen(width: int, height: int) -> bytes:
    """Return a GIF's beginning, without a palette."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0)


def gif_picture(left: int, top: int, width: int, height: int) -> bytes:
    """Return a GIF's picture: a descriptor, and one pixel of it."""
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + b"\x02\x02\x44\x01\x00"


def exif(orientation: int, order: str = "<") -> bytes:
    """Return an EXIF block that says nothing else."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
