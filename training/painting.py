"""Many drawings at once, packed in one velocity call per step: for evaluation, not for serving.

Equals `model.pipeline.draw` for each drawing alone (a test says so).
"""

from collections.abc import Sequence

import torch
from PIL.Image import Image

from model.family import Family, Row
from model.flow import Walk, time_grid
from model.guidance import Branch
from model.images import to_pictures
from model.pipeline import Drawing, plan_drawing

AT_ONCE = 64


@torch.inference_mode()
def paint(family: Family, drawings: Sequence[Drawing]) -> list[Image]:
    """Make the first picture of each drawing; all take the same number of steps."""
    pictures: list[Image] = []
    for start in range(0, len(drawings), AT_ONCE):
        pictures += _paint(family, drawings[start : start + AT_ONCE])
    return pictures


def _paint(family: Family, drawings: Sequence[Drawing]) -> list[Image]:
    plans = [plan_drawing(family, drawing) for drawing in drawings]
    prompts = [(i, branch, prompt) for i, plan in enumerate(plans) for branch, prompt in plan.prompts.items()]
    contexts = {
        (i, branch): context
        for (i, branch, _), context in zip(prompts, family.prefill([p for _, _, p in prompts]), strict=True)
    }
    starts = [
        family.start(plan.size, drawing.images, plan.seeds[0])
        for plan, drawing in zip(plans, drawings, strict=True)
    ]
    grid = family.capabilities.grid
    walks = [
        Walk(
            start.latent_CYX,
            time_grid(plan.num_steps, *start.latent_CYX.shape[1:], name=grid),
            drawing.solver,
        )
        for plan, start, drawing in zip(plans, starts, drawings, strict=True)
    ]
    for _ in range(plans[0].num_steps):
        needed = [
            (i, branch)
            for i, plan in enumerate(plans)
            for branch in plan.guidance.branches(walks[i].time, has_references=bool(starts[i].references))
        ]
        rows = [
            Row(
                latent_CYX=walks[i].latent,
                time=walks[i].time,
                context=contexts[i, branch],
                references=() if branch is Branch.NO_IMAGE else starts[i].references,
            )
            for i, branch in needed
        ]
        velocities = dict(zip(needed, family.velocity(rows), strict=True))
        for i, (plan, walk) in enumerate(zip(plans, walks, strict=True)):
            walk.advance(plan.guidance.combine({b: velocities[i, b] for j, b in needed if j == i}))
    return to_pictures(family.decode([walk.latent for walk in walks]))
