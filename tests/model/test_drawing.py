from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from model import latents
from model.checkpoint import load
from model.drawing import Drawing, Easel, plan_drawing
from model.family import Row, Size
from model.guidance import Branch
from model.hbridge.family import HBridge

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
