from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch

from model.family import Row
from model.hbridge.contexts import PackedContexts
from model.hbridge.family import HBridge
from model.hbridge.network import HBridgeNetwork
from training.drawings import Shelf
from training.generation import Batch, BridgeStage, NoContext, PriorStage, draw_times, load_prior, unbridged
from training.prefills import Prefills, packed


@pytest.fixture
def make_stage(
    bridged: HBridge, shelves: list[Shelf], prefills: list[Prefills]
) -> Callable[..., BridgeStage]:
    def make(**changes: float) -> BridgeStage:
        options = {"time_mean": 0.0, "drop": 0.1, "srt_weight": 0.5, "edit_share": 0.5} | changes
        return BridgeStage(bridged, bridged.network, shelves, prefills, **options)

    return make


def batch(shelf: Shelf, size: int = 3) -> Batch:
    return Batch(shelf, Random(0), torch.Generator().manual_seed(0), size, 0.0)


def test_times_lie_inside_the_flow_and_lean_as_asked() -> None:
    early, late = (draw_times(torch.Generator().manual_seed(0), 500, mean) for mean in (-1.0, 1.0))
    assert 0 < early.min() < late.max() < 1
    assert early.median() < 0.5 < late.median()


def test_a_noised_batch_flows_straight_to_its_data(shelves: list[Shelf]) -> None:
    drawn = batch(shelves[1])
    left = (1 - drawn.times_R)[:, None, None, None]
    indices = [Random(0).randrange(6)]
    arrived = drawn.latent_RCYX + left * drawn.target_RCYX
    torch.testing.assert_close(arrived[:1], shelves[1].after(indices), atol=1e-5, rtol=1e-5)
    assert drawn.indices[:1] == indices
    assert all(len(row.references) == 1 for row in drawn.rows())


def test_an_unbridged_network_ignores_its_context(bridged: HBridge, shelves: list[Shelf]) -> None:
    config = unbridged(bridged.config)
    network = HBridgeNetwork(config)
    drawn = batch(shelves[0])
    torch.nn.init.normal_(network.gen.norm_out.linear_2.weight)
    outputs = [
        network(drawn.rows(), contexts=PackedContexts(lengths=n, next_ids=n, keys=(), values=()))
        for n in ((0, 0, 0), (4, 9, 2))
    ]
    assert not config.pairs
    torch.testing.assert_close(*(torch.stack(output.velocities) for output in outputs))


def test_a_new_network_draws_nothing_yet(
    bridged: HBridge, shelves: list[Shelf], prefills: list[Prefills]
) -> None:
    contexts = packed([prefills[0].prompt(0, blank=False)] * 3)
    output = bridged.network(batch(shelves[0]).rows(), contexts=contexts)
    assert not torch.stack(output.velocities).any()


def test_a_bridged_network_starts_from_the_prior(bridged: HBridge, shelves: list[Shelf]) -> None:
    prior = PriorStage(bridged, shelves, time_mean=0.0)
    weights = {name: p.detach() + 1 for name, p in prior.module.named_parameters() if p.requires_grad}
    load_prior(bridged.network, weights)
    state = bridged.network.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in weights.items())
    assert {"bridge", "srt_proj"} <= {name.split(".")[0] for name in state.keys() - weights.keys()}


def test_a_prior_of_another_shape_is_refused(bridged: HBridge) -> None:
    with pytest.raises(ValueError, match=r"another shape: \['gen.layers.99"):
        load_prior(bridged.network, {"gen.layers.99.weight": torch.zeros(1)})


def test_the_prior_learns_from_pictures_without_words(bridged: HBridge, shelves: list[Shelf]) -> None:
    stage = PriorStage(bridged, shelves, time_mean=0.0)
    loss, figures = stage.loss(Random(0), torch.Generator().manual_seed(0), 2)
    assert figures == {"flow": loss.item()}
    assert all(not shelf.group.is_edit for shelf in stage.shelves)


def test_the_prior_dreams_pictures_to_look_at(bridged: HBridge, shelves: list[Shelf], tmp_path: Path) -> None:
    stage = PriorStage(bridged, shelves, time_mean=0.0)
    dreams = [stage.dream(torch.Generator().manual_seed(seed), 2, steps=2) for seed in (0, 0, 1)]
    assert dreams[0] == dreams[1] != dreams[2]
    assert all(picture.size == (64, 64) for picture in dreams[0])


@pytest.mark.parametrize("edit_share", [0.0, 1.0])
def test_a_step_of_the_bridge_reaches_every_weight_that_its_task_uses(
    bridged: HBridge, make_stage: Callable[..., BridgeStage], edit_share: float
) -> None:
    torch.nn.init.normal_(bridged.network.gen.norm_out.linear_2.weight, std=0.02)
    loss, figures = make_stage(edit_share=edit_share).loss(Random(0), torch.Generator().manual_seed(0), 2)
    loss.backward()
    assert figures.keys() == {"flow_edit" if edit_share else "flow_generate", "srt"}
    assert not any(p.grad is not None for p in bridged.expert.parameters())
    reached = {name for name, p in bridged.network.named_parameters() if p.grad is not None and p.grad.any()}
    unused = {name for name, _ in bridged.network.named_parameters()} - reached
    assert all("ref" in name or "image_index" in name for name in unused) if not edit_share else not unused


def test_no_reconstruction_is_lost_where_the_learned_tokens_point_to_what_is_seen(
    bridged: HBridge, make_stage: Callable[..., BridgeStage], prefills: list[Prefills]
) -> None:
    seen_RNW = prefills[0].seen([0, 1])
    torch.nn.init.eye_(bridged.network.srt_proj.weight)
    torch.nn.init.zeros_(bridged.network.srt_proj.bias)
    for scale, lost in ((1.0, 0.0), (3.0, 0.0), (-1.0, 2.0)):
        assert make_stage().srt_loss(scale * seen_RNW, seen_RNW).item() == pytest.approx(lost, abs=1e-4)


def test_a_context_of_nothing_covers_nothing() -> None:
    row = Row(latent_CYX=torch.zeros(1, 2, 2), time=0.5, context=NoContext())
    assert row.context.num_tokens == row.context.num_bytes == 0
