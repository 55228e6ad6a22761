from collections.abc import Callable

import pytest
import torch
from torch import nn

from model.hbridge.family import HBridge
from training.bridge import BridgeStage, Objective, checkpoint_layers, initialise, load_prior, parts
from training.drawings import Shelf
from training.noised import Noised
from training.prefills import Prefills, packed
from training.prior import PriorStage
from training.schedule import MicroBatch
from training.shapes import Shapes

BATCH = MicroBatch(size=2)


@pytest.fixture
def make_stage(
    bridged: HBridge, shelves: list[Shelf], prefills: list[Prefills]
) -> Callable[..., BridgeStage]:
    def make(edit_share: float = 0.5) -> BridgeStage:
        nn.init.normal_(bridged.network.gen.norm_out.linear_2.weight, std=0.02)
        shapes = Shapes(bridged, shelves, prefills, edit_share=edit_share)
        return BridgeStage(bridged.network, shapes, time_mean=0.0, drop=0.1, srt_weight=0.5, backend="plain")

    return make


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    """Take the gradients out of a module."""
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def test_a_new_network_draws_nothing_yet(
    bridged: HBridge, shelves: list[Shelf], prefills: list[Prefills]
) -> None:
    contexts = packed([prefills[0].prompt(0, blank=False)] * 3)
    latents = list(shelves[0].after([0, 1, 2]))
    drawn = Noised.of(latents, [()] * 3, torch.Generator().manual_seed(0), 0.0)
    output = bridged.network(drawn.rows, contexts=contexts)
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


@pytest.mark.parametrize("edit_share", [0.0, 1.0])
def test_a_step_of_the_bridge_reaches_every_weight_that_its_task_uses(
    bridged: HBridge, make_stage: Callable[..., BridgeStage], edit_share: float
) -> None:
    loss, figures = make_stage(edit_share).loss(BATCH)
    loss.backward()
    assert figures.keys() == {"flow_edit" if edit_share else "flow_generate", "srt"}
    assert not any(p.grad is not None for p in bridged.expert.parameters())
    reached = {name for name, grad in gradients(bridged.network).items() if grad.any()}
    unused = {name for name, _ in bridged.network.named_parameters()} - reached
    assert all("ref" in name or "image_index" in name for name in unused) if not edit_share else not unused


@pytest.mark.parametrize("edit_share", [0.0, 1.0])
def test_computing_layers_again_changes_no_loss_and_no_gradient(
    bridged: HBridge, make_stage: Callable[..., BridgeStage], edit_share: float
) -> None:
    stage = make_stage(edit_share)
    loss, _ = stage.loss(BATCH)
    loss.backward()
    kept = gradients(bridged.network)
    checkpoint_layers(bridged.network)
    again, _ = stage.loss(BATCH)
    again.backward()
    computed = gradients(bridged.network)
    assert torch.equal(loss, again)
    assert kept.keys() == computed.keys()
    assert all(torch.equal(grad, computed[name]) for name, grad in kept.items())


def test_no_reconstruction_is_lost_where_the_learned_tokens_point_to_what_is_seen(
    bridged: HBridge, shelves: list[Shelf], prefills: list[Prefills]
) -> None:
    network, objective = bridged.network, Objective(bridged.network, "plain")
    latents, contexts = list(shelves[0].after([0])), packed([prefills[0].prompt(0, blank=False)])
    noised = Noised.of(latents, [()], torch.Generator().manual_seed(0), 0.0)
    with torch.no_grad():
        srt_RNh = network(noised.rows, contexts=contexts, backend="plain").srt_RNh
        pointed_RNW = network.srt_proj(srt_RNh)
        for scale, lost in ((1.0, 0.0), (3.0, 0.0), (-1.0, 2.0)):
            assert objective(noised, contexts, scale * pointed_RNW)[1].item() == pytest.approx(lost, abs=1e-4)


def test_the_parts_are_nearly_all_of_the_network_and_none_twice(bridged: HBridge) -> None:
    found = [p for part in parts(bridged.network) for p in part.parameters()]
    assert len(set(map(id, found))) == len(found)
    assert sum(p.numel() for p in found) > 0.9 * sum(p.numel() for p in bridged.network.parameters())


def test_a_bridge_starts_with_values_that_pass_on(bridged: HBridge) -> None:
    initialise(bridged.network)
    for bridge in bridged.network.bridge.values():
        for linear in (bridge.v_linear, bridge.o_linear):
            near = torch.eye(*linear.weight.shape)
            assert (linear.weight - near).abs().max() < 0.2
