import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.errors import BadRequest, InvalidImage
from model.family import Capabilities, Size
from model.images import (
    Format,
    encode_image,
    fitted_size,
    open_image,
    output_size,
    resize_reference,
    to_pictures,
    to_tensor,
)

TABLES = json.loads((Path(__file__).parents[1] / "goldens/omnigen2/size_tables.json").read_text())


def as_file(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format=image_format, **options)
    return file.getvalue()


def noise(width: int = 20, height: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


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


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "WEBP"])
def test_lossless_files_are_read_exactly(image_format: str) -> None:
    image = noise()
    read = open_image(as_file(image, image_format, lossless=True))
    assert read.mode == "RGB"
    assert np.array_equal(np.asarray(read), np.asarray(image))


def test_a_file_of_another_format_is_refused() -> None:
    for data in (as_file(noise(), "TIFF"), as_file(noise(), "ICO"), b"", b"<svg/>", b"GIF89a"):
        with pytest.raises(InvalidImage) as error:
            open_image(data)
        assert error.value.param == "image"


def test_too_many_bytes_are_refused_before_decoding() -> None:
    with pytest.raises(InvalidImage, match="1000 bytes, 999 at most"):
        open_image(b"x" * 1000, max_bytes=999)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    data = as_file(noise(100, 100), "PNG")
    with pytest.raises(InvalidImage, match="100x100 pixels, 9999 in all"):
        open_image(data[:60] + bytes(len(data) - 60), max_pixels=9999)


def test_a_picture_of_absurd_size_is_refused() -> None:
    header = as_file(Image.new("1", (1, 1)), "BMP")
    huge = header[:18] + (60000).to_bytes(4, "little") * 2 + header[26:]
    with pytest.raises(InvalidImage):
        open_image(huge)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
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


def test_print_colours_become_screen_colours() -> None:
    read = open_image(as_file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = (int(band) for band in np.asarray(read)[0, 0])
    assert red > 240
    assert max(green, blue) < 20


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    read = open_image(as_file(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert read.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_what_is_written_can_be_read(image_format: Format) -> None:
    data = encode_image(Image.new("RGB", (16, 16), (200, 100, 50)), image_format)
    assert Image.open(BytesIO(data)).format == image_format.upper()
    np.testing.assert_allclose(np.asarray(open_image(data)), np.full((16, 16, 3), (200, 100, 50)), atol=3)


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
