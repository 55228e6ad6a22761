import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.drawing import Drawing
from model.errors import BadRequest
from model.images import encode_image, open_image
from model.pipeline import draw
from service.engine.job import LoadedModel
from service.loading import load_model
from service.receipts import receipt
from service.replay import differences, read_receipt, replay, to_drawing
from service.schemas.answers import ProvenanceData, Receipt
from service.settings import Settings

OFF = ProvenanceData(content_credentials=False, watermark=False, reasons=["off"])
PICTURE = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
FIELDS = {"prompt": "a red circle", "seed": 7, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def shipped() -> LoadedModel:
    return load_model(Settings())


def receipt_of(model: LoadedModel, **fields: Any) -> Receipt:
    drawing = Drawing(**FIELDS | fields)
    return receipt(model.card, drawing, draw(model.family, drawing), OFF)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2, "negative_prompt": "blue", "guidance_scale": 2.5, "solver": "dpmpp_2m"},
        {"guidance_interval": (0.1, 0.8), "guidance_rescale": 0.5, "guidance_scale": 2.0},
        {"images": (PICTURE,), "image_guidance_scale": 1.5},
        {"images": (PICTURE,), "mask": Image.linear_gradient("L").resize((64, 64)).convert("1")},
    ],
    ids=["pictures", "guidance", "edit", "mask"],
)
def test_the_shipped_model_makes_the_same_pixels_again(shipped: LoadedModel, fields: dict[str, Any]) -> None:
    again = Receipt.model_validate_json(receipt_of(shipped, **fields).model_dump_json())
    drawing = to_drawing(again, fields.get("images", ()), fields.get("mask"))
    replayed = replay(again, drawing, shipped)
    assert (replayed.is_same, replayed.differences) == (True, ())


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (name, (name,))
        for name in (
            "weights_sha256",
            "model",
            "family",
            "dtype",
            "quantization",
            "device",
            "attention_backend",
            "grid",
        )
    ]
    + [
        ("guidance.clock", ("guidance", "clock")),
        ("hardware", ("environment", "hardware")),
        ("num_threads", ("environment", "num_threads")),
        ("versions.torch", ("environment", "versions", "torch")),
    ],
)
def test_whatever_differs_is_named(loaded: LoadedModel, name: str, place: tuple[str, ...]) -> None:
    data = receipt_of(loaded).model_dump()
    part = data
    for key in place[:-1]:
        part = part[key]
    value = {"num_threads": 99, "guidance.clock": "step", "quantization": "int8"}.get(name, "another")
    part[place[-1]] = value
    (found,) = differences(Receipt.model_validate(data), loaded.card)
    assert (found.name, found.there) == (name, value)
    assert name in str(found)
    assert str(value) in str(found)


def test_a_library_that_is_not_here_or_was_not_there_is_named(loaded: LoadedModel) -> None:
    data = receipt_of(loaded).model_dump()
    versions = data["environment"]["versions"]
    data["environment"]["versions"] = {"xformers": "1"} | versions
    del data["environment"]["versions"]["numpy"]
    found = list(differences(Receipt.model_validate(data), loaded.card))
    assert [each.name for each in found] == ["versions.numpy", "versions.xformers"]
    assert (found[0].there, found[1].here) == (None, None)


def test_other_weights_are_not_even_tried(loaded: LoadedModel) -> None:
    other = receipt_of(loaded).model_copy(update={"weights_sha256": "other"})
    replayed = replay(other, to_drawing(other), loaded)
    assert (replayed.drawn, replayed.is_same) == (None, False)


def test_a_receipt_that_was_altered_gives_other_pixels(loaded: LoadedModel) -> None:
    honest = receipt_of(loaded)
    for change in ({"seed": 8}, {"prompt": "another"}, {"pixels_sha256": ["00"]}):
        altered = honest.model_copy(update=change)
        assert not replay(altered, to_drawing(altered), loaded).is_same


def test_another_grid_of_times_is_named(loaded: LoadedModel) -> None:
    altered = receipt_of(loaded).model_copy(update={"times": [0.0, 0.25, 1.0]})
    replayed = replay(altered, to_drawing(altered), loaded)
    assert [each.name for each in replayed.differences] == ["times"]


def test_only_the_images_of_the_receipt_are_taken(loaded: LoadedModel) -> None:
    image = open_image(encode_image(PICTURE))
    edit, generate = receipt_of(loaded, images=(image,)), receipt_of(loaded)
    same = open_image(encode_image(PICTURE, "webp", 100))
    to_drawing(edit, [image])
    for wrong in ([], [image, image], [PICTURE.rotate(90)], [same]):
        with pytest.raises(BadRequest, match="image"):
            to_drawing(edit, wrong)
    with pytest.raises(BadRequest, match="1 images"):
        to_drawing(generate, [image])
    with pytest.raises(BadRequest, match="leave it out"):
        to_drawing(edit, [image], Image.new("1", (64, 64)))
    masked = receipt_of(loaded, images=(image,), mask=Image.new("1", (64, 64)))
    with pytest.raises(BadRequest, match="--mask"):
        to_drawing(masked, [image])
    with pytest.raises(BadRequest, match="the mask"):
        to_drawing(masked, [image], Image.new("1", (64, 64), 1))


def test_a_receipt_is_read_alone_or_in_its_answer(loaded: LoadedModel, tmp_path: Path) -> None:
    honest = receipt_of(loaded)
    (tmp_path / "receipt.json").write_text(honest.model_dump_json())
    (tmp_path / "answer.json").write_text(json.dumps({"id": "1", "receipt": honest.model_dump(mode="json")}))
    assert read_receipt(tmp_path / "receipt.json") == read_receipt(tmp_path / "answer.json") == honest


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _: "no json", "JSON"),
        (lambda _: "[]", "no receipt"),
        (lambda data: json.dumps(data | {"speed": 1}), "speed"),
        (lambda data: json.dumps(data | {"seed": "x"}), "seed"),
        (lambda data: json.dumps({"prompt": "a"}), "Field required"),
    ],
)
def test_what_is_no_receipt_is_refused(
    loaded: LoadedModel, tmp_path: Path, spoil: Callable[[dict[str, Any]], str], words: str
) -> None:
    file = tmp_path / "receipt.json"
    file.write_text(spoil(receipt_of(loaded).model_dump(mode="json")))
    with pytest.raises(BadRequest, match=words):
        read_receipt(file)
