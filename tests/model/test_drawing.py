from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from model import latents
from model.checkpoint import load
from model.drawing import Drawing, Easel, plan_drawing
from model.errors import BadRequest
from model.family import Row, Size
from model.guidance import Branch
from model.hbridge.family import HBridge
from model.pipeline import draw

PICTURE = Image.effect_noise((64, 64), 60).convert("RGB")


@pytest.fixture(scope="module")
def family(drawing_folder: Path) -> HBridge:
    family = load(drawing_folder)
    assert isinstance(family, HBridge)
    return family


def begin(family: HBridge, **given: object) -> Easel:
    fields = {"prompt": "red", "size": Size(64, 64), "seed": 5, "num_inference_steps": 3, **given}
    drawing = Drawing(**fields)  # type: ignore[arg-type]
    plan = plan_drawing(family, drawing)
    contexts = dict(zip(plan.prompts, family.prefill(list(plan.prompts.values())), strict=True))
    return Easel(family, drawing, plan, contexts, family.encode(drawing.images))


def test_rows_are_the_branches_of_one_picture_after_another(family: HBridge) -> None:
    easel = begin(family, n=2, images=(PICTURE,), guidance_scale=3.0, image_guidance_scale=2.0)
    branches = (Branch.FULL, Branch.NO_TEXT, Branch.NO_IMAGE)
    assert easel.branches() == branches
    rows: list[Row] = easel.rows()
    assert [row.latent_CYX is easel.latents[i // 3] for i, row in enumerate(rows)] == [True] * 6
    assert [row.context is easel.contexts[branches[i % 3]] for i, row in enumerate(rows)] == [True] * 6
    assert [bool(row.references) for row in rows] == [True, True, False] * 2


def test_references_are_encoded_once_for_all_pictures(family: HBridge) -> None:
    with patch.object(latents, "_encode", wraps=latents._encode) as encode:
        begin(family, n=3, images=(PICTURE,))
    assert encode.call_count == 1


def test_a_straight_flow_arrives_where_it_was_seen_to_go(family: HBridge) -> None:
    easel = begin(family, guidance_scale=1.0)
    start, goal = easel.latents[0], torch.full_like(easel.latents[0], 2.0)
    assert easel.arrivals[0] is start
    while not easel.is_done:
        easel.advance([goal - start])
        torch.testing.assert_close(easel.arrivals[0], goal)
    torch.testing.assert_close(easel.latents[0], goal)
    assert easel.num_done == easel.usage.steps == easel.usage.network_calls == 3
    assert easel.finish([PICTURE]).images == (PICTURE,)


def half_mask(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Let the left half change."""
    mask = Image.new("1", size)
    mask.paste(1, (0, 0, size[0] // 2, size[1]))
    return mask


def test_what_the_mask_does_not_let_change_comes_back_bit_by_bit(family: HBridge) -> None:
    given = {"prompt": "red", "images": (PICTURE,), "num_inference_steps": 2, "seed": 5, "n": 2}
    free = draw(family, Drawing(**given)).images  # type: ignore[arg-type]
    kept = draw(family, Drawing(**given, mask=half_mask())).images  # type: ignore[arg-type]
    left, right = (0, 0, 32, 64), (32, 0, 64, 64)
    for each, changed in zip(kept, free, strict=True):
        assert each.crop(right).tobytes() == PICTURE.crop(right).tobytes()
        assert each.crop(left).tobytes() == changed.crop(left).tobytes() != PICTURE.crop(left).tobytes()


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"mask": half_mask((32, 64))}, "mask"),
        ({"mask": half_mask(), "images": ()}, "mask"),
        ({"mask": half_mask(), "size": Size(32, 32)}, "size"),
        ({"mask": half_mask((72, 64)), "images": (PICTURE.resize((72, 64)),)}, "image"),
    ],
)
def test_a_mask_that_cannot_be_kept_is_refused(family: HBridge, given: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        plan_drawing(family, Drawing(**{"prompt": "red", "images": (PICTURE,)} | given))
    assert refusal.value.param == param


def test_a_mask_goes_with_the_size_that_the_image_has(family: HBridge) -> None:
    plans = (
        plan_drawing(family, Drawing(prompt="red", images=(PICTURE,), mask=half_mask(), size=size))
        for size in (None, Size(64, 64))
    )
    assert {plan.size for plan in plans} == {Size(64, 64)}


def test_a_rescale_is_the_families_unless_it_is_asked_for(family: HBridge) -> None:
    asked = [plan_drawing(family, Drawing(prompt="red", guidance_rescale=r)) for r in (None, 0.7)]
    assert [plan.guidance.rescale for plan in asked] == [family.capabilities.guidance_rescale, 0.7]
