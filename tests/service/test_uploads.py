import base64
import textwrap
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from model.errors import BadRequest, InvalidImage, TooManyReferences
from service.errors import ImageTooLarge
from service.settings import Settings
from service.uploads import decode_text, open_images, pick_images, read_mask


def test_every_spelling_of_base64_is_the_same_bytes(png: Callable[..., bytes]) -> None:
    text = base64.b64encode(png()).decode()
    spellings = [
        text,
        f"data:image/png;base64,{text}",
        f"DATA:;BASE64,{text}",
        "\n".join(textwrap.wrap(text)),
    ]
    assert {decode_text(spelling, "image") for spelling in spellings} == {png()}


@pytest.mark.parametrize(
    "text", ["data:image/png,abc", "data:abc", "http://a/b.png", "HTTPS://a/b", "a*b=", "AAA", "é"]
)
def test_what_is_no_image_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidImage) as refusal:
        decode_text(text, "image")
    assert refusal.value.param == "image"


def test_the_image_that_is_wrong_is_named(png: Callable[..., bytes]) -> None:
    with pytest.raises(InvalidImage) as refusal:
        open_images([png(), b"no picture"], param="images", limit=4, settings=Settings())
    assert refusal.value.param == "images.1"


def test_too_many_images_are_refused_unopened() -> None:
    with pytest.raises(TooManyReferences):
        open_images([b"no picture"] * 3, param="images", limit=2, settings=Settings())


def test_too_many_pixels_are_said_to_be_too_many(png: Callable[..., bytes]) -> None:
    with pytest.raises(ImageTooLarge, match="100"):
        open_images([png(11, 10)], param="image", limit=1, settings=Settings(max_image_pixels=100))


def test_image_and_images_are_one_field() -> None:
    assert pick_images(["a"], None) == (["a"], "image")
    assert pick_images(None, ["a"]) == (["a"], "images")
    assert pick_images(None, None) == ([], "image")
    with pytest.raises(BadRequest):
        pick_images(["a"], ["a"])


MASKS = {
    "alpha": Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 1], [9, 9, 9, 255]]], np.uint8)),
    "white": Image.fromarray(np.array([[[255] * 3, [255, 255, 254], [0] * 3]], np.uint8)),
    "grey": Image.fromarray(np.array([[255, 254, 0]], np.uint8)),
    "deep": Image.fromarray(np.array([[65535, 65534, 0]], np.uint16)),
    "palette": Image.fromarray(np.array([[255, 128, 0]], np.uint8)).convert("P"),
    "bits": Image.fromarray(np.array([[True, False, False]])),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_opens_where_it_is_wholly_transparent_or_white(kind: str) -> None:
    file = BytesIO()
    MASKS[kind].save(file, "PNG")
    mask = read_mask(file.getvalue(), Settings())
    assert mask.mode == "1"
    assert np.asarray(mask).tolist() == [[True, False, False]]
    assert read_mask(base64.b64encode(file.getvalue()).decode(), Settings()).tobytes() == mask.tobytes()


def test_a_mask_with_a_transparent_colour_opens_there() -> None:
    file = BytesIO()
    MASKS["grey"].convert("P").save(file, "PNG", transparency=0)
    assert np.asarray(read_mask(file.getvalue(), Settings())).tolist() == [[False, False, True]]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_mask_that_loses_something_is_refused(kind: str) -> None:
    file = BytesIO()
    MASKS["white"].save(file, kind)
    with pytest.raises(InvalidImage, match="PNG") as refusal:
        read_mask(file.getvalue(), Settings())
    assert refusal.value.param == "mask"


def test_a_mask_has_the_limits_of_an_image(png: Callable[..., bytes]) -> None:
    with pytest.raises(ImageTooLarge, match="100") as refusal:
        read_mask(png(11, 10), Settings(max_image_pixels=100))
    assert refusal.value.param == "mask"
