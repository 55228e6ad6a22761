import json
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.errors import BadRequest, ImageTooLarge, InvalidImage
from model.family import Capabilities, Size
from model.images import (
    Format,
    encode_image,
    fitted_size,
    open_image,
    open_mask,
    output_size,
    pixels_hash,
    resize_reference,
    to_pictures,
    to_tensor,
)
from tests.image_bytes import GREY, as_file, chunk, exif, noise, png, png_header

TABLES = json.loads((Path(__file__).parents[1] / "goldens/omnigen2/size_tables.json").read_text())


def limits() -> Capabilities:
    return Capabilities(
        family="hbridge", tasks=("edit",), size_step=16, min_side=64, max_side=1024, max_pixels=1024**2,
        default_size=Size(512, 512), max_references=5, max_images=5, max_prompt_tokens=99, solvers=("euler",),
        num_inference_steps=4, guidance_scale=1, edit_guidance_scale=1, image_guidance_scale=1,
    )  # fmt: skip


def test_a_picture_survives_the_way_to_a_tensor_and_back() -> None:
    image = noise()
    (back,) = to_pictures([(to_tensor(image) + 1) / 2])
    assert np.array_equal(np.asarray(back), np.asarray(image))


def test_values_outside_are_clipped() -> None:
    (image,) = to_pictures([torch.tensor([-1.0, 0.5, 3.0])[:, None, None]])
    assert image.getpixel((0, 0)) == (0, 128, 255)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_lossless_files_are_read_exactly(image_format: str) -> None:
    image = noise()
    read = open_image(as_file(image, image_format, lossless=True))
    assert read.mode == "RGB"
    assert np.array_equal(np.asarray(read), np.asarray(image))


def test_a_file_of_another_format_is_refused() -> None:
    for data in (as_file(noise(), "TIFF"), as_file(noise(), "BMP"), b"", b"<svg/>", b"GIF89a"):
        with pytest.raises(InvalidImage) as error:
            open_image(data)
        assert error.value.param == "image"


def test_too_many_bytes_are_refused_before_decoding() -> None:
    with pytest.raises(ImageTooLarge, match="1000 bytes, 999 at most"):
        open_image(b"x" * 1000, max_bytes=999)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    data = as_file(noise(100, 100), "PNG")
    with pytest.raises(ImageTooLarge, match="100x100 pixels, 9999 in all"):
        open_image(data[:60] + bytes(len(data) - 60), max_pixels=9999)


def test_a_file_is_what_it_is_said_to_be() -> None:
    data = as_file(noise(), "GIF")
    assert open_image(data, media_type="image/gif").size == (20, 12)
    with pytest.raises(InvalidImage, match="said to be image/png, but is image/gif"):
        open_image(data, media_type="image/png")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_truncated_file_is_refused(image_format: str) -> None:
    data = as_file(noise(200, 200), image_format)
    with pytest.raises(InvalidImage):
        open_image(data[: len(data) // 2])


def test_the_camera_s_turn_is_applied_and_metadata_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "where I live"
    read = open_image(as_file(Image.new("RGB", (20, 10)), "JPEG", exif=exif, comment=b"secret"))
    assert read.size == (10, 20)
    assert read.info == {}
    assert not read.getexif()


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    read = open_image(as_file(clear, "PNG"))
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 20, 30)]


def test_a_palette_with_a_clear_colour_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.putpixel((1, 0), 1)
    read = open_image(as_file(image, "PNG", transparency=0))
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (9, 8, 7)]


def test_sixteen_bits_become_eight() -> None:
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    read = open_image(as_file(image, "PNG"))
    assert [read.getpixel((x, 0)) for x in range(3)] == [(v, v, v) for v in (0, 100, 255)]


def test_the_clear_one_of_sixteen_bit_greys_lies_over_white() -> None:
    header, clear = png_header(2, 1, depth=16, colours=GREY), chunk(b"tRNS", struct.pack(">H", 0x1000))
    read = open_image(png(header, b"\0" + struct.pack(">HH", 0, 0x1000), clear))
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


def test_print_colours_become_screen_colours() -> None:
    read = open_image(as_file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = (int(band) for band in np.asarray(read)[0, 0])
    assert red > 240
    assert max(green, blue) < 20


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    read = open_image(as_file(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert read.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_an_animation_of_any_format_gives_its_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    read = open_image(
        as_file(frames[0], image_format, save_all=True, append_images=frames[1:], lossless=True)
    )
    assert read.getpixel((0, 0)) == (255, 0, 0)


MASKS = {
    "alpha": Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 1], [9, 9, 9, 255]]], np.uint8)),
    "white": Image.fromarray(np.array([[[255] * 3, [255, 255, 254], [0] * 3]], np.uint8)),
    "opaque": Image.fromarray(np.array([[[255] * 4, [255, 255, 254, 255], [0, 0, 0, 255]]], np.uint8)),
    "grey": Image.fromarray(np.array([[255, 254, 0]], np.uint8)),
    "deep": Image.fromarray(np.array([[65535, 65534, 0]], np.uint16)),
    "palette": Image.fromarray(np.array([[255, 128, 0]], np.uint8)).convert("P"),
    "bits": Image.fromarray(np.array([[True, False, False]])),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_opens_where_it_is_wholly_transparent_or_white(kind: str) -> None:
    mask = open_mask(as_file(MASKS[kind], "PNG"))
    assert mask.mode == "1"
    assert np.asarray(mask).tolist() == [[True, False, False]]


@pytest.mark.parametrize(("depth", "row"), [(8, bytes((0, 255, 7))), (16, struct.pack(">xHH", 65535, 7))])
def test_a_mask_with_a_transparent_colour_opens_there(depth: int, row: bytes) -> None:
    file = png(png_header(2, 1, depth=depth, colours=GREY), row, chunk(b"tRNS", struct.pack(">H", 7)))
    assert np.asarray(open_mask(file)).tolist() == [[False, True]]


def test_a_mask_is_turned_as_the_picture_is() -> None:
    read = open_mask(as_file(MASKS["bits"], "PNG", exif=b"Exif\0\0" + exif(6)))
    assert np.asarray(read).tolist() == [[True], [False], [False]]


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "GIF"])
def test_a_mask_is_a_png(image_format: str) -> None:
    with pytest.raises(InvalidImage, match="must be a PNG"):
        open_mask(as_file(noise(), image_format))


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_what_is_written_can_be_read(image_format: Format) -> None:
    data = encode_image(Image.new("RGB", (16, 16), (200, 100, 50)), image_format)
    assert Image.open(BytesIO(data)).format == image_format.upper()
    np.testing.assert_allclose(np.asarray(open_image(data)), np.full((16, 16, 3), (200, 100, 50)), atol=3)


def test_a_hash_of_pixels_is_that_of_the_picture_and_not_of_its_file() -> None:
    image = noise(20, 10)
    files = [as_file(image, "PNG"), as_file(image, "WEBP", lossless=True)]
    assert {pixels_hash(open_image(file)) for file in files} == {pixels_hash(image)}
    other = image.copy()
    other.putpixel((0, 0), (1, 2, 3))
    same_bytes = Image.frombytes("RGB", (10, 20), image.tobytes())
    assert len({pixels_hash(each) for each in (image, other, same_bytes)}) == 3


def test_compression_makes_files_smaller() -> None:
    assert len(encode_image(noise(64, 64), "jpeg", 10)) < len(encode_image(noise(64, 64), "jpeg", 90))


@pytest.mark.parametrize(("image_format", "compression"), [("png", 50), ("jpeg", 101), ("webp", -1)])
def test_a_compression_that_does_not_fit_is_refused(image_format: Format, compression: int) -> None:
    with pytest.raises(BadRequest) as error:
        encode_image(noise(), image_format, compression)
    assert error.value.param == "output_compression"


@pytest.mark.parametrize("row", TABLES["reference_image_resize"])
def test_references_shrink_as_the_original_s(row: dict[str, Any]) -> None:
    fitted = fitted_size(
        Size(row["in_w"], row["in_h"]), max_pixels=row["max_pixels"], max_side=row["max_side_length"], step=16
    )
    assert [fitted.height, fitted.width] == row["out"]


@pytest.mark.parametrize("row", TABLES["output_resize_when_not_aligned"])
def test_outputs_shrink_as_the_original_s(row: dict[str, Any]) -> None:
    asked = Size(row["req_w"], row["req_h"])
    fitted = fitted_size(asked, max_pixels=row["max_pixels"], max_side=10**6, step=16)
    assert [fitted.height, fitted.width] == row["gen"]


def test_a_reference_that_fits_is_left_alone() -> None:
    image = noise(32, 16)
    assert resize_reference(image, max_pixels=10**6, max_side=1024, step=16) is image
    assert resize_reference(noise(40, 5), max_pixels=10**6, max_side=1024, step=16).size == (32, 16)


def test_an_edit_takes_the_size_of_its_first_image() -> None:
    assert output_size([noise(200, 130), noise(999, 999)], limits()) == Size(192, 128)
    assert output_size([noise(20, 200)], limits()) == Size(64, 192)
