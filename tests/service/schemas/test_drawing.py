from dataclasses import replace

import pytest

from model.errors import BadRequest, UnsupportedSize
from model.family import Size
from service.engine.job import LoadedModel
from service.schemas.drawing import (
    EditRequest,
    GenerateRequest,
    check_drawing,
    chosen_size,
    read_size,
    to_drawing,
)


def test_a_size_has_two_spellings() -> None:
    one = chosen_size(GenerateRequest(prompt="a", size="64x32"))
    other = chosen_size(GenerateRequest(prompt="a", width=64, height=32))
    assert one == other == Size(64, 32)
    assert chosen_size(GenerateRequest(prompt="a")) is None


def test_auto_is_for_edits() -> None:
    assert read_size("auto", is_edit=True) is None
    with pytest.raises(UnsupportedSize):
        read_size("auto", is_edit=False)


@pytest.mark.parametrize(
    "text", ["", "64", "64x", "x64", "64X64", "064x64", "64x64 ", "-64x64", "64x64x64", "٦٤x64"]
)
def test_only_a_size_is_a_size(text: str) -> None:
    with pytest.raises(UnsupportedSize):
        read_size(text, is_edit=True)


def test_every_field_of_the_drawing_comes_from_the_request() -> None:
    asked = EditRequest(
        prompt="p",
        negative_prompt="q",
        size="64x32",
        n=2,
        seed=3,
        num_inference_steps=4,
        guidance_scale=5,
        image_guidance_scale=6,
        guidance_interval=[0.1, 0.7],
        guidance_rescale=0.3,
        solver="dpmpp_2m",
    )
    drawing = to_drawing(asked, ())
    for name in (
        "prompt",
        "negative_prompt",
        "n",
        "seed",
        "num_inference_steps",
        "guidance_rescale",
        "solver",
    ):
        assert getattr(drawing, name) == getattr(asked, name)
    assert (drawing.guidance_scale, drawing.image_guidance_scale) == (5, 6)
    assert (drawing.guidance_interval, drawing.size) == ((0.1, 0.7), Size(64, 32))


def test_a_solver_that_the_family_lacks_is_refused(loaded: LoadedModel) -> None:
    can = replace(loaded.family.capabilities, solvers=("euler",))
    with pytest.raises(BadRequest, match="euler"):
        check_drawing(GenerateRequest(prompt="a", solver="dpmpp_2m"), can)
