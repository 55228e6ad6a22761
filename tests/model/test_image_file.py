import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO

import pytest
from PIL import Image

from model.errors import ImageTooLarge, InvalidImage
from model.image_file import MAX_PARTS, MAX_SCANS, orientation_of, read_image_file
from tests.image_bytes import (
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

HIDDEN = b"<script>alert(1)</script>PK\3\4"
FRAMES = [noise(20, 12), Image.new("RGB", (20, 12), "blue")]
SOUND: dict[str, bytes] = {
    "png": as_file(noise(), "PNG"),
    "png palette": as_file(noise(mode="P"), "PNG", transparency=3),
    "png alpha": as_file(noise(mode="RGBA"), "PNG"),
    "apng": as_file(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "jpeg": as_file(noise(), "JPEG"),
    "progressive jpeg": as_file(noise(200, 200), "JPEG", progressive=True),
    "cmyk jpeg": as_file(noise(mode="CMYK"), "JPEG"),
    "mpo": as_file(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:]),
    "webp": as_file(noise(), "WEBP"),
    "lossless webp": as_file(noise(mode="RGBA"), "WEBP", lossless=True),
    "extended webp": as_file(noise(mode="RGBA"), "WEBP", exif=exif(1)),
    "animated webp": as_file(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "gif": as_file(noise(), "GIF"),
    "gif with a clear colour": as_file(noise(mode="P"), "GIF", transparency=3),
    "animated gif": as_file(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:], comment=HIDDEN),
}


def read(data: bytes, max_pixels: int = 10**6) -> bytes:
    return read_image_file(data, max_pixels=max_pixels).data


def first_frame(data: bytes) -> bytes:
    with Image.open(BytesIO(data)) as image:
        return image.convert("RGBA").tobytes()


@pytest.mark.parametrize("name", SOUND)
def test_what_is_kept_decodes_to_the_same_first_frame(name: str) -> None:
    file = read_image_file(SOUND[name], max_pixels=10**6)
    with Image.open(BytesIO(file.data), formats=[file.format]) as image:
        assert image.size == (file.width, file.height)
        assert getattr(image, "n_frames", 1) == 1
    assert first_frame(file.data) == first_frame(SOUND[name])


@pytest.mark.parametrize("name", SOUND)
def test_what_is_kept_is_kept_whole_when_read_again(name: str) -> None:
    assert read(read(SOUND[name])) == read(SOUND[name])


@pytest.mark.parametrize("name", SOUND)
def test_what_follows_the_end_is_left_behind(name: str) -> None:
    assert read(SOUND[name] + HIDDEN) == read(SOUND[name])


@pytest.mark.parametrize("name", SOUND)
def test_no_beginning_of_a_file_is_a_file(name: str) -> None:
    file = read(SOUND[name])
    for end in range(0, len(file) - 1, 7):
        with pytest.raises(InvalidImage):
            read(file[:end])


@pytest.mark.parametrize("name", SOUND)
def test_one_pixel_too_many_is_too_many(name: str) -> None:
    file = read_image_file(SOUND[name], max_pixels=10**6)
    assert read(SOUND[name], file.width * file.height) == file.data
    with pytest.raises(ImageTooLarge):
        read(SOUND[name], file.width * file.height - 1)


@pytest.mark.parametrize(
    "data",
    [
        as_file(noise(), "JPEG", comment=HIDDEN, exif=exif(1), icc_profile=HIDDEN),
        jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + HIDDEN), segment(0xED, HIDDEN)),
        png_with(chunk(b"tEXt", b"a\0" + HIDDEN), chunk(b"eXIf", HIDDEN), chunk(b"iCCP", b"a\0\0" + HIDDEN)),
        as_file(noise(), "WEBP", exif=HIDDEN, xmp=HIDDEN, icc_profile=HIDDEN),
        as_file(noise(), "GIF", comment=HIDDEN),
    ],
    ids=["jpeg", "jpeg of other tools", "png", "webp", "gif"],
)
def test_nothing_but_the_picture_is_kept(data: bytes) -> None:
    assert HIDDEN in data
    assert HIDDEN not in read(data)


PROGRESSIVE = jpeg(progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
BOMBS: dict[str, Callable[[], bytes]] = {
    "png of empty chunks": lambda: png_with(chunk(b"teXt") * MAX_PARTS),
    "png of empty pixels": lambda: png(png_header(2, 1), bytes(7), chunk(b"IDAT") * MAX_PARTS),
    "jpeg of comments": lambda: jpeg_with(segment(0xFE) * MAX_PARTS),
    "jpeg of scans": lambda: PROGRESSIVE[:-2] + LAST_SCAN * MAX_SCANS + PROGRESSIVE[-2:],
    "jpeg of tables": lambda: jpeg_with(segment(0xDB, bytes(65) * 1000) * 2),
    "gif of comments": lambda: gif_screen(1, 1) + b"!\xfe\0" * MAX_PARTS + gif_picture(0, 0, 1, 1),
    "gif of one comment": lambda: gif_screen(1, 1) + b"!\xfe" + b"\1a" * MAX_PARTS + b"\0",
    "gif of small blocks": lambda: gif_screen(1, 1) + gif_picture(0, 0, 1, 1)[:-1] + b"\1a" * MAX_PARTS,
    "webp of empty chunks": lambda: riff(webp_canvas(1, 1), *[(b"none", b"")] * MAX_PARTS),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_of_more_parts_than_pictures_have_is_refused_at_once(name: str) -> None:
    data = BOMBS[name]()
    start = time.thread_time()
    with pytest.raises(InvalidImage, match=r"more than|too many"):
        read(data)
    assert time.thread_time() - start < 1


BROKEN: dict[str, bytes] = {
    "png that begins with a palette": SIGNATURE + chunk(b"PLTE", bytes(3)) + png_with()[8:],
    "png with two headers": png_with(png_header(9, 9)),
    "png with two palettes": png_with(chunk(b"PLTE", bytes(3)) * 2),
    "png with a long palette": png_with(chunk(b"PLTE", bytes(771))),
    "png with a part that may not be skipped": png_with(chunk(b"CgBI", bytes(4))),
    "png whose header has another checksum": png_with()[:29] + bytes(4) + png_with()[33:],
    "png whose pixels have another checksum": png_with()[:-16] + bytes(4) + png_with()[-12:],
    "png with a chunk of 4 GB": SIGNATURE + png_header(1, 1) + b"\xff\xff\xff\xffIDAT" + bytes(99),
    "jpeg of two frames": jpeg_with(segment(0xC0, bytes(15))),
    "jpeg without a picture": b"\xff\xd8" + segment(0xE0, b"JFIF\0") + b"\xff\xd9",
    "jpeg without a frame": b"\xff\xd8" + segment(0xDA, bytes(10)) + b"\xff\xd9",
    "jpeg coded arithmetically": b"\xff\xd8" + segment(0xC9, bytes(15)) + b"\xff\xd9",
    "jpeg without loss": b"\xff\xd8" + segment(0xC3, bytes(15)) + b"\xff\xd9",
    "jpeg that begins twice": b"\xff\xd8" + jpeg(),
    "jpeg with a segment of no length": b"\xff\xd8\xff\xfe\0\1" + jpeg()[2:],
    "gif without a picture": gif_screen(1, 1) + b";",
    "gif whose picture has no size": gif_screen(1, 1) + gif_picture(0, 0, 0, 9),
    "gif whose picture lies outside of everything": gif_screen(1, 1) + gif_picture(65535, 65535, 1, 1),
    "riff that is no picture": b"RIFF" + struct.pack("<I", 4) + b"WAVE",
    "webp that begins with its metadata": riff((b"EXIF", b"")),
    "webp longer than itself": riff(webp_canvas(1, 1), length=999),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_no_tool_writes_is_refused(name: str) -> None:
    with pytest.raises(InvalidImage) as refusal:
        read(BROKEN[name])
    assert type(refusal.value) is InvalidImage


def test_pixels_in_many_parts_become_one() -> None:
    rows = zlib.compress(b"\0" + bytes(range(6)))
    parts = b"".join(chunk(b"IDAT", rows[i : i + 1]) for i in range(len(rows)))
    many = SIGNATURE + png_header(2, 1) + parts + chunk(b"IEND")
    assert read(many) == read(SIGNATURE + png_header(2, 1) + chunk(b"IDAT", rows) + chunk(b"IEND"))


def test_the_clear_grey_of_few_bits_is_spread_as_the_pixels_are() -> None:
    for depth, spread in ((2, 85), (4, 17)):
        clear = chunk(b"tRNS", struct.pack(">H", 1))
        file = read(png(png_header(2, 1, depth=depth, colours=0), bytes((0, 1 << 8 - depth)), clear))
        assert chunk(b"tRNS", struct.pack(">H", spread)) in file


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_read_in_both_byte_orders(orientation: int, order: str) -> None:
    assert orientation_of(exif(orientation, order)) == orientation


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        exif(0),
        exif(9),
        exif(65535),
        exif(6)[:-7],
        exif(6).replace(b"II*\0", b"II+\0"),
        b"II*\0" + struct.pack("<I", 2**32 - 1),
        b"II*\0" + struct.pack("<IH", 8, 65535),
    ],
    ids=["none", "short", "zero", "nine", "most", "cut off", "big", "elsewhere", "many"],
)
def test_an_orientation_that_cannot_be_is_upright(block: bytes) -> None:
    assert orientation_of(block) == 1


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_every_format_with_exif_says_how_it_is_turned(image_format: str) -> None:
    data = as_file(noise(), image_format, exif=b"Exif\0\0" + exif(6))
    assert read_image_file(data, max_pixels=1000).orientation == 6
