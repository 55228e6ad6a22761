"""An OmniGen2 checkpoint in the folders of its release, served: pictures over HTTP are the pipeline's."""

import base64
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from model.drawing import Drawing
from model.family import Size
from model.images import encode_image, open_image
from model.pipeline import draw
from service.engine.job import LoadedModel
from service.loading import load_model
from service.settings import Settings

SMALL = Image.effect_noise((64, 64), 60).convert("RGB")
WIDE = Image.effect_noise((96, 64), 60).convert("RGB")


@pytest.fixture(scope="module")
def omnigen2(omnigen2_folder: Path) -> LoadedModel:
    """Its default size, at which an engine warms up, made small; all else is the checkpoint's."""
    loaded = load_model(Settings(model=str(omnigen2_folder)))
    small = replace(loaded.card.capabilities, default_size=Size(64, 64))
    loaded.family.capabilities = small
    return replace(loaded, card=replace(loaded.card, capabilities=small))


@pytest.fixture(scope="module")
def served(
    omnigen2: LoadedModel, make_web: Callable[..., AbstractContextManager[TestClient]]
) -> Iterator[TestClient]:
    with make_web(omnigen2, Settings(provenance="off")) as web:
        yield web


def sent(image: Image.Image) -> str:
    return base64.b64encode(encode_image(image)).decode()


def pixels(answer: dict[str, Any], index: int = 0) -> bytes:
    return open_image(base64.b64decode(answer["images"][index]["b64_json"])).tobytes()


def test_it_generates_and_edits_and_says_so(served: TestClient) -> None:
    told = served.get("/v1/capabilities").json()
    assert told["tasks"] == ["generate", "edit"]
    assert (told["limits"]["references"], told["limits"]["images"]) == (5, 0)
    assert told["defaults"]["num_inference_steps"] == 50


def test_a_generation_is_the_pipelines(served: TestClient, omnigen2: LoadedModel) -> None:
    fields = {
        "prompt": "a red circle",
        "negative_prompt": "blurry",
        "n": 2,
        "seed": 5,
        "num_inference_steps": 3,
    }
    answer = served.post("/v1/generate", json=fields | {"size": "96x64"}).json()
    drawn = draw(omnigen2.family, Drawing(**fields, size=Size(96, 64)))
    assert [pixels(answer, i) for i in range(2)] == [image.tobytes() for image in drawn.images]
    assert answer["receipt"]["guidance"]["text"] == 4.0
    assert answer["usage"]["network_calls"] == 12


def test_an_edit_with_two_references_is_the_pipelines_first_and_from_the_caches(
    served: TestClient, omnigen2: LoadedModel
) -> None:
    fields = {"prompt": "the circle of the first beside the second", "seed": 7, "num_inference_steps": 2}
    body = fields | {"images": [sent(SMALL), sent(WIDE)], "size": "64x96"}
    first, again = (served.post("/v1/edit", json=body).json() for _ in range(2))
    drawn = draw(omnigen2.family, Drawing(**fields, images=(SMALL, WIDE), size=Size(64, 96)))
    assert pixels(first) == pixels(again) == drawn.images[0].tobytes()
    assert first["usage"]["network_calls"] == 6, "three branches"
    assert first["usage"]["prefilled_tokens"] > again["usage"]["prefilled_tokens"] == 0


def test_guidance_ends_after_the_share_of_steps_that_is_asked(
    served: TestClient, omnigen2: LoadedModel
) -> None:
    fields = {"prompt": "a", "seed": 7, "num_inference_steps": 4, "solver": "dpmpp_2m"}
    body = fields | {"guidance_interval": [0, 0.5], "image": sent(SMALL)}
    answer = served.post("/v1/edit", json=body).json()
    drawn = draw(omnigen2.family, Drawing(**fields, guidance_interval=(0, 0.5), images=(SMALL,)))
    assert pixels(answer) == drawn.images[0].tobytes()
    assert answer["usage"]["network_calls"] == 3 * 3 + 1


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("generate", {"size": "1000x1000"}, "multiples of 16"),
        ("generate", {"size": "2048x2048"}, "at most 1048576 pixels"),
        ("generate", {"prompt": "a" * 1100}, "1023 at most"),
        ("edit", {"images": [sent(SMALL)] * 6}, "6 images, 5 at most"),
        (
            "edit",
            {"prompt": "a" * 860, "images": [sent(Image.new("RGB", (1024, 16)))] * 2},
            "positions, 1024 at",
        ),
        ("understand", {"image": sent(SMALL)}, "cannot understand; it can generate, edit"),
    ],
)
def test_what_is_beyond_it_is_refused(served: TestClient, path: str, body: dict[str, Any], told: str) -> None:
    answer = served.post(f"/v1/{path}", json={"prompt": "a"} | body)
    assert 400 <= answer.status_code < 500
    assert told in answer.json()["error"]["message"]
