from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from model.checkpoint import build, load, read_config
from model.family import Size
from model.prompt import Prompt
from model.registry import resolve
from service.doctor.demand import begin, context_sizes, drawing_of, foretell
from service.engine.memory import MARGIN, Meter

SHIPPED = resolve("hbridge-tiny")


def weightless(folder: Path) -> Any:
    return build(read_config(folder), folder)


@pytest.mark.parametrize(("task", "side"), [("generate", 96), ("edit", 64)])
@torch.inference_mode()
def test_what_is_foretold_without_weights_is_what_real_calls_take(
    task: Literal["generate", "edit"], side: int
) -> None:
    size, family = Size(side, side), load(SHIPPED)
    drawing = drawing_of(task, size, 4)
    with Meter() as prefill:
        easel = begin(family, drawing).easel(family, drawing)
    with Meter() as denoise:
        family.velocity(easel.rows())
    with Meter() as decode:
        family.decode(easel.latents)
    demand = foretell(weightless(SHIPPED), task, size)
    found = {"prefill": prefill, "denoise": denoise, "decode": decode}
    for stage, meter in found.items():
        foretold = demand.peaks[stage] + 3 * demand.more[stage]  # type: ignore[index]
        assert foretold / MARGIN == pytest.approx(meter.peak_bytes, rel=0.1), stage
    assert demand.context_bytes == sum(context.num_bytes for context in easel.contexts.values())
    # Pictures of a step share the embedding of its time.
    assert 4 * demand.flops["denoise"] == pytest.approx(family.flops.velocity(easel.rows()), rel=0.02)


def test_what_fits_is_the_most_that_is_not_too_much() -> None:
    demand = foretell(weightless(SHIPPED), "generate", Size(64, 64))
    for num_bytes in (10**5, 10**7, 10**8, 10**9):
        count = demand.fitting(num_bytes)
        assert count == 0 or demand.bytes_for(count) <= num_bytes
        assert demand.bytes_for(count + 1) > num_bytes


def test_contexts_take_what_they_hold(drawing_folder: Path) -> None:
    family = load(drawing_folder)
    token_bytes, image_tokens, image_bytes = context_sizes(weightless(drawing_folder), Size(64, 64))
    (context,) = family.prefill([Prompt.draw("a circle above a square")])
    assert context.num_bytes == token_bytes * context.num_tokens
    assert image_bytes > image_tokens * token_bytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["hbridge", "omnigen2"])
def test_full_size_models_are_foretold_from_their_configs(model: str) -> None:
    family = weightless(resolve(model))
    family.module.to(torch.bfloat16)
    small, large = (foretell(family, "generate", Size(side, side)) for side in (64, 128))
    for stage in ("denoise", "decode"):
        assert 0 < small.peaks[stage] < large.peaks[stage]
        assert 0 < small.flops[stage] < large.flops[stage]
