import asyncio
import base64
import gzip
import struct
import textwrap
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import hypothesis
import psutil
import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st
from PIL import Image

from model.errors import BadRequest, ImageTooLarge, InvalidImage, TooManyReferences
from service.errors import status_of
from service.fetch import Fetcher
from service.settings import Settings
from service.uploads import decode_text, open_images, pick_images, read_images, read_mask
from tests.image_bytes import (
    COLOUR,
    COLOUR_ALPHA,
    GREY,
    GREY_ALPHA,
    PALETTE,
    SIGNATURE,
    as_file,
    chunk,
    exif,
    gif_picture,
    gif_screen,
    jpeg,
    jpeg_with,
    noise,
    png,
    png_header,
    png_with,
    riff,
    segment,
    webp_canvas,
)

T = TypeVar("T")
MEGABYTE = 2**20
MAX_SECONDS = 2


def open_one(data: str | bytes, **settings: Any) -> Image.Image:
    (image,) = open_images([data], param="image", limit=1, settings=Settings(**settings))
    return image


def data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def with_fetcher(work: Callable[[Fetcher], Awaitable[T]]) -> T:
    async def run() -> T:
        fetcher = Fetcher(Settings())
        try:
            return await work(fetcher)
        finally:
            await fetcher.close()

    return asyncio.run(run())


def read(encoded: list[str | bytes], *, limit: int = 4, **settings: Any) -> tuple[Image.Image, ...]:
    return with_fetcher(
        lambda fetcher: read_images(
            encoded, param="images", limit=limit, settings=Settings(**settings), fetcher=fetcher
        )
    )


@contextmanager
def in_little_time_and_memory() -> Iterator[None]:
    memory, start = psutil.Process().memory_info().rss, time.thread_time()
    yield
    assert time.thread_time() - start < MAX_SECONDS
    assert psutil.Process().memory_info().rss - memory < 128 * MEGABYTE


BIG = bytes(MEGABYTE)
PROGRESSIVE = jpeg(progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
ENTITY = b'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>'
FRAMES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
HALVES = {name: as_file(noise(99, 99), name) for name in ("PNG", "JPEG", "WEBP", "GIF")}

# What is sent, and the kind and words of the refusal.
REFUSED: dict[str, tuple[Callable[[], str | bytes], type[InvalidImage], str]] = {
    # Not one of the formats, whatever they say.
    "nothing": (lambda: b"", InvalidImage, "none of PNG"),
    "a page": (lambda: b"<html><script>alert(1)</script>", InvalidImage, "none of PNG"),
    "a drawing with an entity": (lambda: ENTITY, InvalidImage, "none of PNG"),
    "a drawing said to be one": (lambda: data_url(ENTITY, "image/svg+xml"), InvalidImage, "none of PNG"),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run", InvalidImage, "none of PNG"),
    "a document": (lambda: b"%PDF-1.7\n", InvalidImage, "none of PNG"),
    "an archive": (lambda: b"PK\3\4" + bytes(30), InvalidImage, "none of PNG"),
    "a program": (lambda: b"\x7fELF\2\1\1", InvalidImage, "none of PNG"),
    "a sound": (lambda: b"RIFF\x24\0\0\0WAVEfmt ", InvalidImage, "none of PNG"),
    "a packed picture": (lambda: gzip.compress(png_with()), InvalidImage, "none of PNG"),
    "TIFF": (lambda: as_file(noise(), "TIFF"), InvalidImage, "none of PNG"),
    "BMP": (lambda: as_file(noise(), "BMP"), InvalidImage, "none of PNG"),
    "AVIF": (lambda: as_file(noise(), "AVIF"), InvalidImage, "none of PNG"),
    "a PNG after a blank": (lambda: b" " + png_with(), InvalidImage, "none of PNG"),
    # Said to be something else.
    "JPEG said to be PNG": (lambda: data_url(jpeg(), "image/png"), InvalidImage, "said to be image/png"),
    "PNG said to be a page": (lambda: data_url(png_with(), "text/html"), InvalidImage, "said to be text"),
    "PNG said to be GIF": (lambda: data_url(png_with(), "IMAGE/GIF"), InvalidImage, "said to be image/gif"),
    # Texts that are neither.
    "a data: URL in percents": (lambda: "data:image/png,%89PNG", InvalidImage, "must be base64"),
    "a data: URL of nothing": (lambda: "data:image/png;base64", InvalidImage, "neither"),
    "base64 with other letters": (lambda: "iVBOR*w0KGgo=", InvalidImage, "neither"),
    "base64 cut off": (lambda: "iVBORw0KGgoA", InvalidImage, "truncated"),
    "a text in another script": (lambda: "图片", InvalidImage, "neither"),
    # Too large: said before anything is allocated.
    "too many bytes": (lambda: png_with() + bytes(25 * MEGABYTE), ImageTooLarge, "bytes"),
    "PNG of 60000x60000": (lambda: png(png_header(60_000, 60_000), b""), ImageTooLarge, "60000x60000"),
    "PNG of the longest sides": (lambda: png(png_header(2**31 - 1, 2**31 - 1), b""), ImageTooLarge, "pixels"),
    "PNG of one long row": (lambda: png(png_header(2**31 - 1, 1), b""), ImageTooLarge, "pixels"),
    "JPEG of 65535x65535": (
        lambda: b"\xff\xd8" + segment(0xC0, b"\x08\xff\xff\xff\xff" + bytes(10)), ImageTooLarge, "65535x65535"
    ),
    "WEBP of 16777216x16777216": (lambda: riff(webp_canvas(2**24, 2**24)), ImageTooLarge, "pixels"),
    "lossless WEBP of 16384x16384": (
        lambda: riff((b"VP8L", b"\x2f\xff\xff\xff\x0f")), ImageTooLarge, "16384x16384"
    ),
    "lossy WEBP of 16383x16383": (
        lambda: riff((b"VP8 ", b"\0\0\0\x9d\1\x2a\xff\x3f\xff\x3f")), ImageTooLarge, "16383x16383"
    ),
    "GIF with a large screen": (
        lambda: gif_screen(65535, 65535) + gif_picture(0, 0, 1, 1), ImageTooLarge, "65535x65535"
    ),
    "GIF with a small screen": (
        lambda: gif_screen(1, 1) + gif_picture(0, 0, 65535, 65535), ImageTooLarge, "65535x65535"
    ),
    "GIF with a picture far away": (
        lambda: gif_screen(1, 1) + gif_picture(65000, 65000, 1, 1), ImageTooLarge, "65001x65001"
    ),
    # Much work for few bytes.
    "PNG of 200,000 chunks": (lambda: png_with(chunk(b"teXt") * 200_000), InvalidImage, "parts"),
    "JPEG of 200,000 comments": (lambda: jpeg_with(segment(0xFE) * 200_000), InvalidImage, "parts"),
    "JPEG of ten thousand scans": (
        lambda: PROGRESSIVE[:-2] + LAST_SCAN * 10_000 + PROGRESSIVE[-2:], InvalidImage, "scans"
    ),
    "JPEG of many tables": (
        lambda: jpeg_with(segment(0xDB, bytes(65) * 1000) * 100), InvalidImage, "tables"
    ),
    "GIF of 200,000 comments": (
        lambda: gif_screen(1, 1) + b"!\xfe\0" * 200_000 + gif_picture(0, 0, 1, 1), InvalidImage, "parts"
    ),
    "WEBP of 200,000 chunks": (
        lambda: riff(webp_canvas(1, 1), *[(b"none", b"")] * 200_000), InvalidImage, "parts"
    ),
    # Cut off.
    **{
        f"half a {name}": (lambda data=data: data[: len(data) // 2], InvalidImage, "truncated")
        for name, data in HALVES.items()
    },
    "PNG without its end": (lambda: png_with()[:-12], InvalidImage, "truncated"),
    "JPEG without its end": (lambda: jpeg()[:-2], InvalidImage, "truncated"),
    "WEBP shorter than it says": (lambda: HALVES["WEBP"][:-2], InvalidImage, "truncated"),
    "only a signature": (lambda: SIGNATURE, InvalidImage, "truncated"),
    "only the start of a JPEG": (lambda: b"\xff\xd8\xff", InvalidImage, "truncated"),
    "only the start of a GIF": (lambda: b"GIF89a", InvalidImage, "truncated"),
    "only the start of a WEBP": (lambda: b"RIFF\0\0\0\0WEBP", InvalidImage, "broken"),
    # Broken.
    "PNG without pixels": (lambda: SIGNATURE + png_header(1, 1) + chunk(b"IEND"), InvalidImage, "broken"),
    "PNG without size": (lambda: png(png_header(0, 1), b"\0"), InvalidImage, "broken"),
    "PNG of an unknown depth": (lambda: png(png_header(1, 1, depth=7), bytes(4)), InvalidImage, "broken"),
    "PNG whose pixels are no zlib": (
        lambda: SIGNATURE + png_header(1, 1) + chunk(b"IDAT", BIG) + chunk(b"IEND"), InvalidImage, "broken"
    ),
    "PNG with a changed byte": (lambda: png_with().replace(b"IDATx", b"IDATy"), InvalidImage, "checksum"),
    "PNG with a chunk of 4 GB": (
        lambda: SIGNATURE + png_header(1, 1) + b"\xff\xff\xff\xffIDAT", InvalidImage, "truncated"
    ),
    "JPEG without loss": (lambda: b"\xff\xd8" + segment(0xC3, bytes(15)), InvalidImage, "neither"),
    "JPEG coded arithmetically": (lambda: b"\xff\xd8" + segment(0xC9, bytes(15)), InvalidImage, "neither"),
    "JPEG of 12 bits": (
        lambda: jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), InvalidImage, "broken"
    ),
    "JPEG of two frames": (lambda: jpeg_with(segment(0xC0, bytes(15))), InvalidImage, "two frames"),
    "JPEG of no picture": (lambda: b"\xff\xd8\xff\xd9", InvalidImage, "no picture"),
    "GIF of no picture": (lambda: gif_screen(1, 1) + b";", InvalidImage, "no picture"),
    "GIF of a picture without size": (
        lambda: gif_screen(1, 1) + gif_picture(0, 0, 0, 0), InvalidImage, "no size"
    ),
    "WEBP whose frame is larger than its canvas": (
        lambda: riff(webp_canvas(1, 1), (b"VP8L", as_file(noise(), "WEBP", lossless=True)[20:])),
        InvalidImage,
        "broken",
    ),
    "WEBP that says it moves": (
        lambda: riff(webp_canvas(20, 12, flags=2), (b"VP8 ", as_file(noise(), "WEBP")[20:])),
        InvalidImage,
        "broken",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused_at_once(name: str) -> None:
    make, kind, words = REFUSED[name]
    encoded = make()
    with in_little_time_and_memory(), pytest.raises(InvalidImage, match=words) as refusal:
        open_one(encoded)
    assert type(refusal.value) is kind
    assert refusal.value.param == "image"
    assert str(refusal.value).startswith("image: ")


RED = Image.new("RGB", (8, 8), "red")
RED_PNG, RED_GIF, RED_JPEG = (as_file(RED, name) for name in ("PNG", "GIF", "JPEG"))
ROW = b"\0" + b"\xff\0\0" * 8
HEADER = png_header(8, 8)
TEXT_BOMB = chunk(b"zTXt", b"a\0\0" + zlib.compress(BIG)) * 2000
PROFILE_BOMB = chunk(b"iCCP", b"a\0\0" + zlib.compress(BIG)) * 2000
ADOBE = b"Adobe\0\x64\0\0\0\0"

# Files that look like an attack or are one, and still have a red picture in them, which is all that is taken.
TAKEN: dict[str, Callable[[], str | bytes]] = {
    "PNG and an archive": lambda: RED_PNG + b"PK\3\4" + bytes(99),
    "JPEG and a page": lambda: RED_JPEG + b"<html><script>alert(1)</script>",
    "JPEG and a video": lambda: RED_JPEG + bytes(4) + b"ftypmp42" + noise(999, 99).tobytes(),
    "GIF and a script": lambda: RED_GIF + b"/*=1;alert(1)",
    "GIF and another GIF": lambda: RED_GIF + as_file(noise(99, 99), "GIF"),
    "WEBP and a program": lambda: as_file(RED, "WEBP", lossless=True) + b"\x7fELF",
    "JPEG with a script in a comment": lambda: as_file(RED, "JPEG", comment=b"<?php system($_GET[1]); ?>"),
    "JPEG with another picture": lambda: as_file(RED, "MPO", save_all=True, append_images=[noise(99, 99)]),
    "PNG with a script in a text": lambda: png(HEADER, ROW * 8, chunk(b"tEXt", b"a\0<?php ?>")),
    "PNG with a text that names Pillow's own": lambda: png(
        HEADER, ROW * 8, *(chunk(b"tEXt", word + b"\0x") for word in (b"transparency", b"bbox", b"interlace"))
    ),
    "PNG with texts of 2 GB": lambda: png(HEADER, ROW * 8, TEXT_BOMB),
    "PNG with texts of 2 GB after its pixels": lambda: png(HEADER, ROW * 8, after=[TEXT_BOMB]),
    "PNG with profiles of 2 GB": lambda: png(HEADER, ROW * 8, PROFILE_BOMB),
    "PNG with more rows than it says": lambda: png(HEADER, ROW * 200_000),
    "PNG in very many parts": lambda: png(HEADER, ROW * 8, chunk(b"IDAT") * 99_000),
    "PNG with an EXIF of 20 MB": lambda: png(HEADER, ROW * 8, chunk(b"eXIf", exif(1) + 20 * BIG)),
    "JPEG with an EXIF in very many parts": lambda: RED_JPEG[:2]
    + segment(0xE1, b"Exif\0\0" + bytes(900)) * 25_000
    + RED_JPEG[2:],
    "JPEG with 20 MB of filling": lambda: RED_JPEG[:2] + b"\xff" * 20 * MEGABYTE + RED_JPEG[2:],
    "JPEG with 20 MB of rubbish": lambda: RED_JPEG[:2] + b"\xff\0" * 10 * MEGABYTE + RED_JPEG[2:],
    "JPEG with 20 MB of restarts": lambda: RED_JPEG[:-2] + b"\xff\xd0" * 10 * MEGABYTE + RED_JPEG[-2:],
    "GIF of a thousand frames": lambda: as_file(
        RED, "GIF", save_all=True, append_images=[Image.new("L", (8, 8), i % 256) for i in range(1000)]
    ),
    "APNG that says it has 4 billion frames": lambda: png(
        HEADER, ROW * 8, chunk(b"acTL", b"\x7f\xff\xff\xff\0\0\0\0")
    ),
    "an animated GIF": lambda: as_file(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "an animated WEBP": lambda: as_file(
        FRAMES[0], "WEBP", lossless=True, save_all=True, append_images=FRAMES[1:]
    ),
    "an animated PNG": lambda: as_file(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "PNG of 16 bits": lambda: png(png_header(8, 8, depth=16), (b"\0" + b"\xff\xff\0\0\0\0" * 8) * 8),
    "PNG of 16 bits with opacity": lambda: png(
        png_header(8, 8, depth=16, colours=COLOUR_ALPHA), (b"\0" + b"\xff\xff\0\0\0\0\xff\xff" * 8) * 8
    ),
    "PNG of a palette of one bit": lambda: png(
        png_header(8, 8, depth=1, colours=PALETTE), b"\0\xff" * 8, chunk(b"PLTE", b"\0\0\0\xff\0\0")
    ),
    "JPEG in print colours": lambda: as_file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"),
    "JPEG turned by a camera": lambda: as_file(RED, "JPEG", exif=b"Exif\0\0" + exif(8)),
    "JPEG with a broken EXIF": lambda: as_file(RED, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "JPEG with an impossible turn": lambda: as_file(RED, "JPEG", exif=b"Exif\0\0" + exif(65535)),
    "a name of a type that some write": lambda: data_url(RED_JPEG, "image/jpg"),
    "a type that says nothing": lambda: data_url(RED_GIF, "application/octet-stream"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_of_a_strange_file_the_first_picture_is_taken(name: str) -> None:
    encoded = TAKEN[name]()
    with in_little_time_and_memory():
        image = open_one(encoded)
    assert (image.mode, image.size, image.info) == ("RGB", (8, 8), {})
    red, green, blue = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[misc]
    assert red > 235
    assert max(green, blue) < 25


@pytest.mark.parametrize(
    ("colours", "row", "seen"),
    [(GREY, b"\0\x80\0", 128), (GREY_ALPHA, b"\0\x80\0\0\0", 255), (GREY_ALPHA, b"\0\x80\0\xff\xff", 128)],
)
def test_greys_of_16_bits_lie_over_white(colours: int, row: bytes, seen: int) -> None:
    image = open_one(png(png_header(1, 1, depth=16, colours=colours), row))
    assert image.getpixel((0, 0)) == (seen, seen, seen)


@pytest.mark.parametrize("colours", [GREY, COLOUR])
def test_rows_that_a_file_lacks_are_black_and_never_what_memory_held(colours: int) -> None:
    row = b"\0" + b"\xff" * 999 * (3 if colours else 1)
    image = open_one(png(png_header(999, 999, colours=colours), row))
    assert image.crop((0, 1, 999, 999)).getextrema() == ((0, 0),) * 3


def test_the_table_of_hostile_files_is_long() -> None:
    assert len(REFUSED) + len(TAKEN) >= 60


# Made files: sound ones with parts changed, checksums made right again, and ones put together from chunks.

SOUND = [
    *(as_file(noise(mode=mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
    *(as_file(noise(mode=mode), "JPEG") for mode in ("L", "RGB", "CMYK")),
    as_file(noise(40, 40), "JPEG", progressive=True, exif=b"Exif\0\0" + exif(6)),
    as_file(noise(), "MPO", save_all=True, append_images=[noise()]),
    *(as_file(noise(mode="RGBA"), "WEBP", lossless=lossless) for lossless in (True, False)),
    *(as_file(FRAMES[0], name, save_all=True, append_images=FRAMES[1:]) for name in ("PNG", "WEBP", "GIF")),
    as_file(noise(mode="P"), "GIF", transparency=1, comment=b"a"),
]
KINDS = [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"tEXt", b"acTL", b"fcTL", b"fdAT", b"iCCP"]
SMALL = st.binary(min_size=1, max_size=20)
SIDES = st.one_of(st.integers(0, 40), st.sampled_from([999, 2**16, 2**31 - 1, 2**32 - 1]))
TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/jpg", "text/html", "", "image/svg+xml"]


def resealed(data: bytes) -> bytes:
    """Give every chunk of a PNG the checksum that its bytes now have."""
    parts, position = [data[:8]], 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = min(position + 8 + length, len(data) - 4)
        body = data[position + 4 : end]
        parts.append(data[position : position + 4] + body + struct.pack(">I", zlib.crc32(body)))
        position = end + 4
    return b"".join(parts)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A sound file in which some bytes are others, gone, doubled or new."""
    data = draw(st.sampled_from(SOUND))
    for _ in range(draw(st.integers(1, 4))):
        start, new = draw(st.integers(0, len(data) - 1)), draw(SMALL)
        length = draw(st.sampled_from([len(new), len(new), 0, 1, 60]))
        if draw(st.integers(0, 3)) == 3:
            new = data[start : start + length] * 2
        data = data[:start] + new + data[start + length :]
    return resealed(data) if data.startswith(SIGNATURE) else data


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound file in which a few bytes of the pixels are others."""
    data = draw(st.sampled_from(SOUND))
    for _ in range(draw(st.integers(1, 3))):
        start, new = draw(st.integers(len(data) // 2, len(data) - 8)), draw(st.binary(min_size=1, max_size=4))
        data = data[:start] + new + data[start + len(new) :]
    return resealed(data) if data.startswith(SIGNATURE) else data


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    """A PNG of random chunks, each with its right checksum."""
    fields = (st.sampled_from([1, 2, 4, 8, 16, 3]), st.sampled_from([0, 2, 3, 4, 6, 1]), st.integers(0, 1))
    depth, colours, interlace = (draw(field) for field in fields)
    header = png_header(draw(SIDES), draw(SIDES), depth=depth, colours=colours, interlace=interlace)
    rows = st.builds(lambda row, times: zlib.compress(row * times), SMALL, st.integers(0, 2000))
    body = st.one_of(SMALL, rows, st.binary(min_size=768, max_size=768))
    chunks = draw(st.lists(st.builds(chunk, st.sampled_from(KINDS), body), max_size=6))
    return SIGNATURE + header + b"".join(chunks) + chunk(b"IDAT", draw(rows)) + chunk(b"IEND")


@st.composite
def segmented(draw: st.DrawFn) -> bytes:
    """A JPEG or a WEBP of random parts."""
    if draw(st.booleans()):
        parts = draw(st.lists(st.builds(segment, st.integers(1, 254), SMALL), max_size=6))
        return b"\xff\xd8" + b"".join(parts) + draw(SMALL) + draw(st.sampled_from([jpeg()[2:], b"\xff\xd9"]))
    kinds = st.sampled_from([b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"none"])
    canvas = webp_canvas(draw(st.integers(1, 40)), draw(st.integers(1, 2**24)), draw(st.integers(0, 255)))
    sound = [
        (b"VP8L", as_file(noise(), "WEBP", lossless=True)[20:]),
        (b"VP8 ", as_file(noise(), "WEBP")[20:]),
    ]
    parts_of = st.lists(st.one_of(st.sampled_from(sound), st.tuples(kinds, SMALL)), max_size=6)
    return riff(*draw(st.sampled_from([[canvas], []])), *draw(parts_of))


HOSTILE = st.one_of(
    changed(),
    damaged(),
    chunked(),
    segmented(),
    st.builds(
        lambda start, rest: start + rest,
        st.sampled_from([SIGNATURE, b"\xff\xd8\xff", b"GIF89a", b"RIFF", b""]),
        st.binary(max_size=200),
    ),
    st.builds(data_url, changed(), st.sampled_from(TYPES)),
    st.text(max_size=60),
    st.builds(lambda words: "data:" + words, st.text(max_size=40)),
)


def open_or_refuse(encoded: str | bytes) -> Image.Image | BadRequest:
    try:
        return open_one(encoded, max_image_pixels=MEGABYTE)
    except BadRequest as refusal:
        return refusal


@pytest.mark.parametrize("num_files", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_made_file_is_an_error_of_ours_or_takes_long_or_leaves_memory_behind(num_files: int) -> None:
    sent: list[str | bytes] = []
    outcomes = {"opened": 0, "refused": 0}
    slowest = 0.0

    @hypothesis.settings(
        max_examples=num_files,
        deadline=None,
        database=None,
        derandomize=num_files < 1000,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(HOSTILE)
    def send(encoded: str | bytes) -> None:
        nonlocal slowest
        start = time.thread_time()
        outcome = open_or_refuse(encoded)
        slowest = max(slowest, time.thread_time() - start)
        assert slowest < MAX_SECONDS
        if isinstance(outcome, Image.Image):
            outcomes["opened"] += 1
            assert outcome.mode == "RGB"
            assert 0 < outcome.width * outcome.height <= MEGABYTE
        else:
            outcomes["refused"] += 1
            assert status_of(outcome)[0] == 400
            assert outcome.param == "image"
        sent.append(encoded)

    send()
    assert len(sent) >= num_files * 0.9
    assert min(outcomes.values()) > num_files * 0.03
    memory = psutil.Process().memory_info().rss
    for encoded in sent:
        open_or_refuse(encoded)
    assert psutil.Process().memory_info().rss - memory < 8 * MEGABYTE


# The ways in.


def test_every_spelling_of_base64_is_the_same_bytes(png: Callable[..., bytes]) -> None:
    text = base64.b64encode(png()).decode()
    spellings = {
        text: None,
        f"data:image/png;base64,{text}": "image/png",
        f"data:image/PNG;name=a;base64,{text}": "image/png",
        f"DATA:;BASE64,{text}": None,
        "\n".join(textwrap.wrap(text)): None,
    }
    assert {spelling: decode_text(spelling, "image") for spelling in spellings} == {
        spelling: (png(), said) for spelling, said in spellings.items()
    }


@pytest.mark.parametrize("text", ["data:image/png,abc", "data:abc", "a*b=", "AAA", "é", "https:/a"])
def test_what_is_no_image_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidImage) as refusal:
        decode_text(text, "image")
    assert refusal.value.param == "image"


def test_the_image_that_is_wrong_is_named(png: Callable[..., bytes]) -> None:
    with pytest.raises(InvalidImage) as refusal:
        read([png(), b"no picture"])
    assert refusal.value.param == "images.1"


def test_images_come_back_in_order_however_they_were_sent(png: Callable[..., bytes]) -> None:
    sent = [png(8, width, "red") for width in (8, 16, 24)]
    encoded = [sent[0], data_url(sent[1], "image/png"), base64.b64encode(sent[2]).decode()]
    assert [image.size for image in read(encoded)] == [(8, 8), (8, 16), (8, 24)]


@pytest.mark.parametrize(
    "address", ["https://a.example/b.png", " HTTP://a.example/b.png", "ftp://a", "file:///etc/passwd"]
)
def test_an_address_is_refused_where_nothing_is_fetched(address: str) -> None:
    with pytest.raises(InvalidImage, match="opens no remote addresses") as refusal:
        read([address])
    assert refusal.value.param == "images"


def test_too_many_images_are_refused_unopened() -> None:
    with pytest.raises(TooManyReferences):
        read([b"no picture", "https://a.example"] * 2, limit=3)


def test_too_many_pixels_are_said_to_be_too_many(png: Callable[..., bytes]) -> None:
    with pytest.raises(ImageTooLarge, match="100") as refusal:
        read([png(11, 10)], max_image_pixels=100)
    assert status_of(refusal.value) == (400, "image_too_large")


def test_a_mask_is_opened_as_safely(png: Callable[..., bytes]) -> None:
    def mask(encoded: str | bytes) -> Image.Image:
        return with_fetcher(
            lambda fetcher: read_mask(
                encoded, param="mask", settings=Settings(max_image_pixels=100), fetcher=fetcher
            )
        )

    assert mask(png(10, 10, "white")).getextrema() == (255, 255)
    assert mask(data_url(png(10, 10, "black"), "image/png")).getextrema() == (0, 0)
    for refused in (png(11, 10), jpeg(), "https://a.example/b.png", b""):
        with pytest.raises(InvalidImage) as refusal:
            mask(refused)
        assert refusal.value.param == "mask"


def test_few_files_are_opened_at_once() -> None:
    file = as_file(noise(300, 300), "PNG")

    async def many(fetcher: Fetcher) -> None:
        reads = [
            read_images([file], param="image", limit=1, settings=Settings(), fetcher=fetcher)
            for _ in range(20)
        ]
        await asyncio.gather(*reads)

    with_fetcher(many)
    openers = [thread for thread in threading.enumerate() if thread.name.startswith("open-image")]
    assert 1 <= len(openers) <= 4


def test_image_and_images_are_one_field() -> None:
    assert pick_images(["a"], None) == (["a"], "image")
    assert pick_images(None, ["a"]) == (["a"], "images")
    assert pick_images(None, None) == ([], "image")
    with pytest.raises(BadRequest):
        pick_images(["a"], ["a"])
