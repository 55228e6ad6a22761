import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from model.drawing import Drawing
from model.family import Size
from model.images import open_image
from model.pipeline import draw
from service.engine.job import LoadedModel
from service.schemas.answers import Receipt


def picture(answer: dict[str, Any], index: int = 0) -> Image.Image:
    return open_image(base64.b64decode(answer["images"][index]["b64_json"]))


def test_generate_answers_the_pipelines_pixels(web: TestClient, loaded: LoadedModel) -> None:
    fields = {
        "prompt": "a red circle",
        "negative_prompt": "blue",
        "n": 2,
        "seed": 5,
        "num_inference_steps": 3,
    }
    fields |= {"guidance_scale": 2.5, "solver": "dpmpp_2m"}
    answer = web.post("/v1/generate", json=fields | {"guidance_interval": [0, 0.8], "size": "32x48"}).json()
    drawn = draw(loaded.family, Drawing(**fields, guidance_interval=(0, 0.8), size=Size(32, 48)))
    for index, image in enumerate(drawn.images):
        assert picture(answer, index).tobytes() == image.tobytes()
        assert answer["images"][index]["seed"] == 5 + index
        assert (answer["images"][index]["width"], answer["images"][index]["height"]) == (32, 48)


def test_edit_answers_the_pipelines_pixels(
    web: TestClient, loaded: LoadedModel, png64: Callable[..., str]
) -> None:
    fields = {"prompt": "make it blue", "seed": 5, "num_inference_steps": 2, "image_guidance_scale": 1.5}
    answer = web.post("/v1/edit", json=fields | {"image": png64()}).json()
    image = open_image(base64.b64decode(png64()))
    assert (
        picture(answer).tobytes()
        == draw(loaded.family, Drawing(**fields, images=(image,))).images[0].tobytes()
    )
    assert answer["receipt"]["task"] == "edit"


def test_every_way_to_bring_an_image_is_the_same(
    web: TestClient, png: Callable[..., bytes], png64: Callable[..., str]
) -> None:
    fields = {"prompt": "a", "seed": 1, "num_inference_steps": 1}
    bare = png64()
    ways = [
        {"image": bare},
        {"image": [bare]},
        {"images": [bare]},
        {"image": f"data:image/png;base64,{bare}"},
    ]
    answers = [web.post("/v1/edit", json=fields | way).json() for way in ways]
    for part in ("image", "image[]", "images"):
        answers.append(web.post("/v1/edit", data=fields, files={part: png()}).json())
    assert len({answer["images"][0]["b64_json"] for answer in answers}) == 1


def test_the_answer_says_what_was_used_and_the_same_again_makes_the_same(web: TestClient) -> None:
    first = web.post("/v1/generate", json={"prompt": "a", "metadata": {"mine": "1"}}).json()
    receipt = first["receipt"]
    assert set(first) == {
        *("id", "created", "model", "images", "usage", "timings", "receipt", "metadata", "warnings")
    }
    assert first["metadata"] == {"mine": "1"}
    assert first["warnings"] == []
    assert set(first["timings"]) == {"queue", "prefill", "denoise", "decode", "total", "expected"}
    assert first["usage"]["prefilled_tokens"] > 0
    assert first["usage"]["network_calls"] >= first["usage"]["steps"] == len(receipt["times"]) - 1
    again = {name: receipt[name] for name in ("prompt", "negative_prompt", "seed", "n", "size", "solver")}
    again |= {"num_inference_steps": len(receipt["times"]) - 1, "guidance_scale": receipt["guidance"]["text"]}
    second = web.post("/v1/generate", json=again).json()
    assert second["images"][0]["b64_json"] == first["images"][0]["b64_json"]
    assert second["receipt"] == receipt


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_binary_answer_is_the_file(web: TestClient, loaded: LoadedModel, kind: str) -> None:
    body = {"prompt": "a", "seed": 3, "response_format": "binary", "output_format": kind, "size": "48x32"}
    answer = web.post("/v1/generate", json=body)
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.headers["x-seed"] == "3"
    receipt = Receipt.model_validate_json(base64.b64decode(answer.headers["x-receipt"]))
    assert (receipt.seed, receipt.weights_sha256) == (3, loaded.card.weights_hash)
    with Image.open(BytesIO(answer.content)) as image:
        assert (image.format, image.size) == (kind.upper(), (48, 32))


def test_a_lower_quality_is_a_smaller_file(web: TestClient) -> None:
    body = {"prompt": "a", "seed": 3, "response_format": "binary", "output_format": "jpeg"}
    high, low = (web.post("/v1/generate", json=body | {"output_compression": q}).content for q in (95, 5))
    assert len(low) < len(high)


def test_guidance_that_is_off_is_said_to_be_off(web: TestClient) -> None:
    answer = web.post(
        "/v1/generate", json={"prompt": "a", "guidance_scale": 1, "num_inference_steps": 2}
    ).json()
    assert answer["receipt"]["guidance"]["branches"] == ["full"]
    assert answer["usage"]["network_calls"] == 2


def test_the_loaded_model_may_be_named(web: TestClient) -> None:
    answer = web.post("/v1/generate", json={"prompt": "a", "model": "tiny", "num_inference_steps": 1})
    assert answer.json()["model"] == "tiny"


@pytest.fixture(scope="module")
def noise() -> Callable[..., bytes]:
    """Return a function that makes a noisy picture, or a mask that lets its left half change."""

    def make(mode: str = "RGB") -> bytes:
        values = np.random.default_rng(0).integers(0, 255, (32, 32, len(mode)), dtype=np.uint8)
        values[..., 3:] = 255
        image = Image.fromarray(values)
        if mode == "RGBA":
            image.paste((0, 0, 0, 0), (0, 0, 16, 32))
        file = BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    return make


RIGHT, LEFT = (16, 0, 32, 32), (0, 0, 16, 32)


@pytest.mark.parametrize("body", [{}, {"size": "auto"}, {"width": 32, "height": 32, "n": 2}])
def test_pixels_outside_the_mask_come_back_bit_by_bit(
    web: TestClient, noise: Callable[..., bytes], body: dict[str, Any]
) -> None:
    image, mask = noise(), noise("RGBA")
    fields = {"prompt": "a", "seed": 1, "num_inference_steps": 2} | body
    texts = {"image": base64.b64encode(image).decode(), "mask": base64.b64encode(mask).decode()}
    told = web.post("/v1/edit", json=fields | texts).json()
    sent = web.post("/v1/edit", data=fields, files={"image[]": image, "mask": ("m.png", mask)}).json()
    free = web.post("/v1/edit", json=fields | {"image": texts["image"]}).json()
    original = open_image(image)
    for index in range(len(free["images"])):
        got = picture(told, index)
        assert got.crop(RIGHT).tobytes() == original.crop(RIGHT).tobytes()
        assert got.crop(LEFT).tobytes() == picture(free, index).crop(LEFT).tobytes()
        assert picture(sent, index).tobytes() == got.tobytes()
    assert told["warnings"] == free["warnings"] == []


def test_a_mask_that_lets_nothing_change_is_warned_of(web: TestClient, png: Callable[..., bytes]) -> None:
    files = {"image": png(), "mask": png(32, 32, "black")}
    answer = web.post("/v1/edit", data={"prompt": "a", "num_inference_steps": 1}, files=files).json()
    assert picture(answer).tobytes() == open_image(files["image"]).tobytes()
    assert "mask" in answer["warnings"][0]


def test_a_rescale_is_used_and_said(web: TestClient) -> None:
    body = {"prompt": "a", "seed": 1, "guidance_scale": 3, "num_inference_steps": 3}
    plain, more = (web.post("/v1/generate", json=body | {"guidance_rescale": r}).json() for r in (0, 0.7))
    assert [each["receipt"]["guidance"]["rescale"] for each in (plain, more)] == [0, 0.7]
    assert plain["images"] != more["images"]
    assert web.post("/v1/generate", json=body).json()["images"] == plain["images"]


def test_lists_and_objects_of_a_form_have_brackets(web: TestClient, png: Callable[..., bytes]) -> None:
    data = {"prompt": "a", "metadata[a]": "1", "metadata[b c]": "2", "guidance_interval[]": ["0.2", "1"]}
    answer = web.post("/v1/edit", data=data, files={"image": png()}).json()
    assert answer["metadata"] == {"a": "1", "b c": "2"}
    assert answer["receipt"]["guidance"]["interval"] == [0.2, 1]


def test_several_pictures_share_one_prefill(web: TestClient) -> None:
    usages = [web.post("/v1/generate", json={"prompt": "b", "n": n}).json()["usage"] for n in (1, 3)]
    read = [usage["prefilled_tokens"] + usage["cached_prompt_tokens"] for usage in usages]
    assert read[0] == read[1]
    assert usages[1]["image_tokens"] == 3 * usages[0]["image_tokens"]
