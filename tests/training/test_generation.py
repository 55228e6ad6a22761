from random import Random

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from model.family import Row
from model.hbridge.contexts import PackedContexts
from model.hbridge.family import HBridge
from model.hbridge.network import HBridgeNetwork
from model.prompt import Prompt
from model.qwen_vl.patches import cut
from training.drawings import Shelf, sample
from training.generation import Batch, BridgeStage, NoContext, PriorStage, draw_times, load_prior, unbridged
from training.world import render


def bridge_stage(family: HBridge, shelves: list[Shelf], **changes: float) -> BridgeStage:
    options = {"time_mean": 0.0, "drop": 0.1, "srt_weight": 0.5, "edit_share": 0.5} | changes
    return BridgeStage(family, family.network, family.expert, family.processor, shelves, **options)


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
    assert drawn.samples[0] == sample(shelves[1].group, indices[0])
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


def test_a_new_network_draws_nothing_yet(bridged: HBridge, shelves: list[Shelf]) -> None:
    stage = bridge_stage(bridged, shelves)
    contexts = stage.read([Prompt.draw("a star")] * 3)
    output = bridged.network(batch(shelves[0]).rows(), contexts=contexts)
    assert not torch.stack(output.velocities).any()


def test_a_bridged_network_starts_from_the_prior(bridged: HBridge, shelves: list[Shelf]) -> None:
    prior = PriorStage(bridged.config, shelves, time_mean=0.0)
    weights = {name: p.detach() + 1 for name, p in prior.module.named_parameters() if p.requires_grad}
    load_prior(bridged.network, weights)
    state = bridged.network.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in weights.items())
    assert {"bridge", "srt_proj"} <= {name.split(".")[0] for name in state.keys() - weights.keys()}


def test_a_prior_of_another_shape_is_refused(bridged: HBridge) -> None:
    with pytest.raises(ValueError, match=r"another shape: \['gen.layers.99"):
        load_prior(bridged.network, {"gen.layers.99.weight": torch.zeros(1)})


def test_the_prior_learns_from_pictures_without_words(bridged: HBridge, shelves: list[Shelf]) -> None:
    stage = PriorStage(bridged.config, shelves, time_mean=0.0)
    loss, figures = stage.loss(Random(0), torch.Generator().manual_seed(0), 2)
    assert figures == {"flow": loss.item()}
    assert all(not shelf.group.is_edit for shelf in stage.shelves)


@pytest.mark.parametrize("edit_share", [0.0, 1.0])
def test_a_step_of_the_bridge_changes_no_weight_of_the_understanding_side(
    bridged: HBridge, shelves: list[Shelf], edit_share: float
) -> None:
    torch.nn.init.normal_(bridged.network.gen.norm_out.linear_2.weight, std=0.02)
    stage = bridge_stage(bridged, shelves, edit_share=edit_share)
    loss, figures = stage.loss(Random(0), torch.Generator().manual_seed(0), 2)
    loss.backward()
    assert figures.keys() == {"flow_edit" if edit_share else "flow_generate", "srt"}
    assert not any(p.grad is not None for p in bridged.expert.parameters())
    reached = {name for name, p in bridged.network.named_parameters() if p.grad is not None and p.grad.any()}
    unused = {name for name, _ in bridged.network.named_parameters()} - reached
    assert all("ref" in name or "image_index" in name for name in unused) if not edit_share else not unused


@pytest.mark.parametrize(("drop", "share"), [(0.0, 0), (0.5, 0.5), (1.0, 1)])
def test_words_are_dropped_as_often_as_asked(
    bridged: HBridge, shelves: list[Shelf], drop: float, share: float
) -> None:
    stage, rng = bridge_stage(bridged, shelves, drop=drop), Random(0)
    each = sample(shelves[1].group, 0)
    prompts = [stage.prompt(rng, each) for _ in range(200)]
    dropped = [prompt == Prompt.draw("", prompt.images) for prompt in prompts]
    assert sum(dropped) / 200 == pytest.approx(share, abs=0.1)
    assert all(len(prompt.images) == 1 for prompt in prompts)


def seen(family: HBridge, shelf: Shelf) -> tuple[list, Tensor]:
    samples = [sample(shelf.group, index) for index in range(2)]
    images = [cut(render(each.after), family.config.understanding.vision) for each in samples]
    grid = family.expert.see(images).detach().unflatten(0, (2, 4, 4)).movedim(-1, 1)
    return samples, adaptive_avg_pool2d(grid, 4).flatten(2).mT


def test_no_reconstruction_is_lost_where_the_learned_tokens_point_to_what_is_seen(
    bridged: HBridge, shelves: list[Shelf]
) -> None:
    stage = bridge_stage(bridged, shelves)
    samples, target_RNW = seen(bridged, shelves[0])
    torch.nn.init.eye_(bridged.network.srt_proj.weight)
    torch.nn.init.zeros_(bridged.network.srt_proj.bias)
    for scale, lost in ((1.0, 0.0), (3.0, 0.0), (-1.0, 2.0)):
        assert stage.srt_loss(scale * target_RNW, samples).item() == pytest.approx(lost, abs=1e-4)


def test_a_context_of_nothing_covers_nothing() -> None:
    row = Row(latent_CYX=torch.zeros(1, 2, 2), time=0.5, context=NoContext())
    assert row.context.num_tokens == row.context.num_bytes == 0
