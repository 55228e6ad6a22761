"""Many drawings at once, packed in one velocity call per step: for evaluation, not for serving.

Equals `model.pipeline.draw` for each drawing alone (a test says so).
"""

from collections.abc import Sequence

import torch
from PIL.Image import Image

from model.drawing import Drawing, Easel, plan_drawing
from model.family import Family
from model.images import to_pictures

AT_ONCE = 64


@torch.inference_mode()
def paint(family: Family, drawings: Sequence[Drawing]) -> list[Image]:
    """Make the first picture of each drawing."""
    pictures: list[Image] = []
    for start in range(0, len(drawings), AT_ONCE):
        pictures += finish(family, begin(family, drawings[start : start + AT_ONCE]))
    return pictures


def begin(family: Family, drawings: Sequence[Drawing]) -> list[Easel]:
    """Read all prompts and encode all references, packed."""
    plans = [plan_drawing(family, drawing) for drawing in drawings]
    contexts = iter(family.prefill([prompt for plan in plans for prompt in plan.prompts.values()]))
    return [
        Easel(
            family,
            drawing,
            plan,
            {branch: next(contexts) for branch in plan.prompts},
            family.encode(drawing.images),
        )
        for drawing, plan in zip(drawings, plans, strict=True)
    ]


def finish(family: Family, easels: Sequence[Easel]) -> list[Image]:
    """Take all steps, packed, and decode the first picture of each."""
    while going := [easel for easel in easels if not easel.is_done]:
        rows = [easel.rows() for easel in going]
        velocities = iter(family.velocity([row for needed in rows for row in needed]))
        for easel, needed in zip(going, rows, strict=True):
            easel.advance([next(velocities) for _ in needed])
    return to_pictures(family.decode([latent for easel in easels for latent in easel.latents[:1]]))
