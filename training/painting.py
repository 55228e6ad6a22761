"""Many drawings at once, packed in one velocity call per step: for evaluation, not for serving.

Equals `model.pipeline.draw` for each drawing alone (a test says so).
"""

from collections.abc import Mapping, Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from model.family import Context, Family, Row
from model.flow import Walk, time_grid
from model.guidance import Branch
from model.images import to_pictures
from model.pipeline import Drawing, Plan, plan_drawing

AT_ONCE = 64


class Easel:
    """One drawing in the making."""

    def __init__(
        self, family: Family, drawing: Drawing, plan: Plan, contexts: Mapping[Branch, Context]
    ) -> None:
        start = family.start(plan.size, drawing.images, plan.seeds[0])
        can = family.capabilities
        times = time_grid(plan.num_steps, *start.latent_CYX.shape[1:], name=can.grid)
        self.walk = Walk(start.latent_CYX, times, drawing.solver)
        self.references = start.references
        self.contexts = contexts
        self.guidance = plan.guidance
        self.counts_steps = can.guidance_clock == "step"

    def rows(self) -> dict[Branch, Row]:
        """Return what the coming step must compute."""
        walk = self.walk
        clock = walk.index / walk.num_steps if self.counts_steps else walk.time
        return {
            branch: Row(
                latent_CYX=walk.latent,
                time=walk.time,
                context=self.contexts[branch],
                references=() if branch is Branch.NO_IMAGE else self.references,
            )
            for branch in self.guidance.branches(clock, has_references=bool(self.references))
        }

    def advance(self, velocities: Mapping[Branch, Tensor]) -> None:
        """Take the step."""
        self.walk.advance(self.guidance.combine(velocities))


@torch.inference_mode()
def paint(family: Family, drawings: Sequence[Drawing]) -> list[Image]:
    """Make the first picture of each drawing."""
    pictures: list[Image] = []
    for start in range(0, len(drawings), AT_ONCE):
        pictures += _paint(family, drawings[start : start + AT_ONCE])
    return pictures


def _paint(family: Family, drawings: Sequence[Drawing]) -> list[Image]:
    plans = [plan_drawing(family, drawing) for drawing in drawings]
    contexts = iter(family.prefill([prompt for plan in plans for prompt in plan.prompts.values()]))
    easels = [
        Easel(family, drawing, plan, {branch: next(contexts) for branch in plan.prompts})
        for drawing, plan in zip(drawings, plans, strict=True)
    ]
    while going := [easel for easel in easels if not easel.walk.is_done]:
        rows = [easel.rows() for easel in going]
        velocities = iter(family.velocity([row for needed in rows for row in needed.values()]))
        for easel, needed in zip(going, rows, strict=True):
            easel.advance({branch: next(velocities) for branch in needed})
    return to_pictures(family.decode([easel.walk.latent for easel in easels]))
