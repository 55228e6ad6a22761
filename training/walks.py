"""Where on its way from noise is a picture lost?

Walks that begin on the straight line from noise to a true picture, at some time: what is wrong in the end
went wrong after it. Scored as everything is.
"""

from collections.abc import Mapping, Sequence
from random import Random

import torch

from model.drawing import Drawing
from model.family import Family
from model.flow import Walk
from training.canvas import Canvas
from training.captions import CAPTIONS
from training.detector import detect
from training.evaluation import Score
from training.painting import begin, finish
from training.world import render

TIMES = (0.0, 0.2, 0.4, 0.6, 0.8)
KINDS = ("counting", "binding")
"""Of captions: those that tell most of the picture."""


def right_from(
    family: Family, *, kinds: Sequence[str] = KINDS, times: Sequence[float] = TIMES, count: int = 64
) -> Mapping[str, Mapping[str, object]]:
    """Return, for each kind of caption, what is right of walks that begin at each time.

    Args:
        family: With an autoencoder; its times are taken to be evenly spaced.
        kinds: Of captions, about held-out pairs.
        times: Flow times in [0, 1); 0 is noise, as always.
        count: Walks for each kind and time.
    """
    return {kind: {str(time): _score(family, kind, time, count).report() for time in times} for kind in kinds}


@torch.inference_mode()
def _score(family: Family, kind: str, time: float, count: int) -> Score:
    rng, canvas = Random(f"walks {kind}"), Canvas(held_out=True)
    cases = [CAPTIONS[kind](rng, canvas) for _ in range(count)]
    easels = begin(family, [Drawing(prompt=case.text, seed=i) for i, case in enumerate(cases)])
    truths = family.encode([render(case.scene) for case in cases])
    for easel, truth_CYX in zip(easels, truths, strict=True):
        noise_CYX, num_steps = easel.walks[0].latent, easel.plan.num_steps
        grid = [time + (1 - time) * i / num_steps for i in range(num_steps + 1)]
        easel.walks = [Walk(noise_CYX + time * (truth_CYX - noise_CYX), grid)]
    pictures = finish(family, easels)
    return Score.of([case.wish.is_met(detect(p)) for case, p in zip(cases, pictures, strict=True)])
