from collections.abc import Callable

import pytest
import torch
from torch import nn

from model.hbridge.family import HBridge
from training.drawings import Shelf
from training.prefills import Prefills
from training.schedule import MicroBatch
from training.shapes import Shapes
from training.telling import TellingStage

BATCH = MicroBatch(size=2)


@pytest.fixture
def make_stage(
    bridged: HBridge, shelves: list[Shelf], prefills: list[Prefills]
) -> Callable[..., TellingStage]:
    def make(edit_share: float, cells_weight: float = 0.2) -> TellingStage:
        nn.init.normal_(bridged.network.gen.norm_out.linear_2.weight, std=0.02)
        shapes = Shapes(bridged, shelves, prefills, edit_share=edit_share)
        options = {"time_mean": 0.0, "drop": 0.1, "srt_weight": 0.5}
        return TellingStage(bridged.network, shapes, cells_weight=cells_weight, backend="plain", **options)

    return make


@pytest.mark.parametrize("edit_share", [0.0, 1.0])
def test_what_is_told_wrongly_adds_to_the_loss(
    make_stage: Callable[..., TellingStage], edit_share: float
) -> None:
    torch.manual_seed(0)
    stage = make_stage(edit_share)
    with torch.no_grad():
        loss, figures = stage.loss(BATCH)
        stage.cells_weight = 0.0
        without, _ = stage.loss(BATCH)
    assert figures["cells"] > 0.5
    torch.testing.assert_close(loss, without + 0.2 * figures["cells"])


def test_telling_teaches_the_bridged_layers_and_nothing_after_them(
    bridged: HBridge, make_stage: Callable[..., TellingStage]
) -> None:
    stage = make_stage(0.0)
    stage.srt_weight = 0.0
    nn.init.zeros_(bridged.network.gen.norm_out.linear_2.weight)
    nn.init.zeros_(bridged.network.gen.norm_out.linear_2.bias)
    loss, _ = stage.loss(BATCH)
    loss.backward()
    last = bridged.network.config.prefix_layers + max(bridged.network.config.pairs)
    reached = {name for name, p in bridged.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {f"gen.layers.{last}.attn.to_q.weight", "cells.heads.shape.weight"} <= reached
    assert not any(name.startswith(f"gen.layers.{last + 1}.") for name in reached)


def test_cells_are_asked_of_the_tokens_that_lie_there(make_stage: Callable[..., TellingStage]) -> None:
    """References and learned tokens come before them."""
    stage = make_stage(1.0)
    given = stage.source.draw(BATCH, 0.0)
    asked: list[torch.Tensor] = []
    passed: list[torch.Tensor] = []
    stage.cells.register_forward_hook(lambda _, args, __: asked.append(args[0]))
    stage._told.register_forward_hook(lambda *call: passed.append(call[-1]))
    with torch.no_grad():
        stage.judge(given, BATCH)
    rows = torch.tensor_split(passed[0], len(given.latents))
    assert torch.equal(asked[0], torch.cat([row[-16:] for row in rows]))
