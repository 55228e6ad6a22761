from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import Backend
from model.backend_choice import available
from model.family import Row
from model.flow import Walk
from model.guidance import Branch, Guidance
from model.hbridge.config import HBridgeConfig
from model.hbridge.contexts import PackedContexts
from model.hbridge.network import HBridgeNetwork
from model.rope import mrope_table, rotate_half

Golden = Callable[[str], dict[str, Tensor]]
BACKENDS = available(torch.device("cpu"), torch.float32)
MakeRow = Callable[..., Row]
BOTH = pytest.mark.parametrize("backend", BACKENDS)


def build(config: HBridgeConfig) -> HBridgeNetwork:
    torch.manual_seed(0)
    network = HBridgeNetwork(config).requires_grad_(False)
    for layer in network.gen.layers:
        layer.norm1.linear.bias.add_(0.5)
    return network


def moved(row: Row, next_id: int) -> Row:
    return replace(row, context=replace(row.context, next_id=next_id))


@BOTH
@pytest.mark.parametrize("name", ["velocity_text", "velocity_ref1"])
def test_velocities_are_those_of_the_golden_vectors(
    network: HBridgeNetwork, golden: Golden, context_of: Any, name: str, backend: Backend
) -> None:
    tensors = golden(name)
    references = tuple(tensors[key] for key in sorted(tensors) if key.startswith("in.ref."))
    shared = {"latent_CYX": tensors["in.latent"], "context": context_of(tensors), "references": references}
    output = network([Row(time=float(t), **shared) for t in tensors["in.t"]], backend=backend)
    torch.testing.assert_close(torch.stack(output.velocities), tensors["out.velocity"], atol=1e-4, rtol=0)


def test_the_guided_loop_is_that_of_the_golden_vectors(
    network: HBridgeNetwork, golden: Golden, context_of: Any
) -> None:
    tensors = golden("loop_t2i")
    contexts = {Branch.FULL: context_of(tensors, "ctx.c."), Branch.NO_IMAGE: context_of(tensors, "ctx.u.")}
    guidance = Guidance(text=4.0)
    walk = Walk(tensors["in.latent"], tensors["out.times"].tolist())
    while not walk.is_done:
        rows = [Row(latent_CYX=walk.latent, time=walk.time, context=context) for context in contexts.values()]
        guided = guidance.combine(dict(zip(contexts, network(rows).velocities, strict=True)))
        torch.testing.assert_close(guided, tensors["out.guided_velocity"][walk.index], atol=1e-4, rtol=0)
        walk.advance(guided)
        torch.testing.assert_close(walk.latent, tensors["out.trajectory"][walk.index - 1], atol=1e-4, rtol=0)


@BOTH
def test_a_row_packed_with_others_is_the_row_alone(
    network: HBridgeNetwork, make_row: MakeRow, backend: Backend
) -> None:
    shapes = [((4, 6), 5, (4, 4), (2, 6)), ((6, 2), 3), ((4, 6), 7, (2, 2))]
    rows = [make_row(network.config, seed, *shape) for seed, shape in enumerate(shapes)]
    packed = network(rows, backend=backend)
    for i, row in enumerate(rows):
        alone = network([row], backend=backend)
        torch.testing.assert_close(packed.velocities[i], alone.velocities[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(packed.srt_RNh[i], alone.srt_RNh[0], atol=1e-5, rtol=1e-5)


@BOTH
def test_branches_of_a_picture_equal_rows_that_share_nothing(
    network: HBridgeNetwork, make_row: MakeRow, backend: Backend
) -> None:
    full, other = (make_row(network.config, 0, (4, 6), num_und, (4, 4), (2, 6)) for num_und in (5, 3))
    branches = [full, replace(full, context=other.context), replace(full, references=())]
    apart = [
        replace(
            row,
            latent_CYX=row.latent_CYX.clone(),
            references=tuple(latent_CYX.clone() for latent_CYX in row.references),
        )
        for row in branches
    ]
    for first, second in zip(
        network(branches, backend=backend).velocities, network(apart, backend=backend).velocities, strict=True
    ):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_what_no_prompt_reaches_is_computed_once_for_all_branches(
    network: HBridgeNetwork, make_row: MakeRow
) -> None:
    row = make_row(network.config, 0, (4, 6), 5, (4, 4))
    branches = [row, replace(row, context=make_row(network.config, 1, (4, 6), 3).context)]
    counted: dict[str, int] = {}
    for name, block in [
        ("refiner", network.gen.noise_refiner[0]),
        ("reference", network.gen.ref_image_refiner[0]),
        ("before", network.gen.layers[network.config.first_bridged_layer - 1]),
        ("bridged", network.gen.layers[network.config.first_bridged_layer]),
    ]:
        block.register_forward_pre_hook(lambda _, args, name=name: counted.update({name: len(args[0])}))
    network(branches)
    joined = 4 + network.config.srt_count + 6
    assert counted == {"refiner": 6, "reference": 4, "before": joined, "bridged": 2 * joined}


def test_groupings_that_differ_on_both_sides_work_with_every_backend(
    golden_config: dict[str, Any], make_row: MakeRow
) -> None:
    und = {"hidden_size": 112, "num_attention_heads": 7, "num_key_value_heads": 1, "vision": None}
    gen = {"hidden_size": 72, "num_attention_heads": 6, "num_kv_heads": 2}
    given = {
        "understanding": golden_config["understanding"] | und,
        "generation": golden_config["generation"] | gen,
    }
    network = build(HBridgeConfig.from_dict(golden_config | given))
    rows = [make_row(network.config, 0, (4, 6), 5, (4, 4)), make_row(network.config, 1, (2, 2), 3)]
    velocities = [network(rows, backend=backend).velocities for backend in BACKENDS]
    for first, second in zip(*velocities, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_contexts_may_come_packed(network: HBridgeNetwork, make_row: MakeRow) -> None:
    rows = [make_row(network.config, seed, (4, 4), 3 + seed) for seed in range(2)]
    packed = PackedContexts.of([row.context for row in rows], network.config.pairs)
    given = network([replace(row, context=packed) for row in rows], contexts=packed)
    for first, second in zip(given.velocities, network(rows).velocities, strict=True):
        assert torch.equal(first, second)


def test_the_prompt_matters_only_where_there_are_bridges(config: HBridgeConfig, make_row: MakeRow) -> None:
    for skip_first, matters in ((1, True), (5, False)):
        network = build(replace(config, skip_first=skip_first))
        rows = [make_row(network.config, 0, (4, 4), 5, (2, 2)) for _ in range(2)]
        other = make_row(network.config, 1, (4, 4), 8).context
        rows[1] = replace(rows[1], context=other)
        first, second = network(rows).velocities
        assert torch.allclose(first, second, atol=1e-5) != matters


def test_a_zero_output_map_leaves_the_feed_forward_halves(network: HBridgeNetwork, make_row: MakeRow) -> None:
    row = make_row(network.config, 0, (4, 4), 5, (2, 2))
    before = network([row]).velocities[0]
    for bridge in network.bridge.values():
        bridge.o_linear.weight.zero_()
    bridgeless = network([row]).velocities[0]
    other = network([replace(row, context=make_row(network.config, 1, (2, 2), 9).context)]).velocities[0]
    assert torch.equal(bridgeless, other)
    assert not torch.allclose(before, bridgeless, atol=1e-3)


def test_only_differences_of_positions_count_in_bridged_layers(
    network: HBridgeNetwork, make_row: MakeRow
) -> None:
    row = make_row(network.config, 0, (4, 4), 5, (2, 2))
    und = network.config.understanding
    turn = one_position_on(und.mrope_section, und.rope_theta, row.context.num_tokens)
    turned = replace(row.context, keys=tuple(turn(key_LKD) for key_LKD in row.context.keys), next_id=6)
    both, neither, one = network([replace(row, context=turned), row, moved(row, 6)]).velocities
    torch.testing.assert_close(both, neither, atol=1e-4, rtol=0)
    assert not torch.allclose(one, neither, atol=1e-4)


def one_position_on(sections: tuple[int, ...], theta: float, length: int) -> Callable[[Tensor], Tensor]:
    table = mrope_table(torch.ones(length, 3, dtype=torch.long), sections, theta)
    return lambda key_LKD: rotate_half(key_LKD, *table)


def test_learned_tokens_matter_but_not_their_order(network: HBridgeNetwork, make_row: MakeRow) -> None:
    row = make_row(network.config, 0, (4, 4), 5, (2, 2))
    before = network([row])
    network.srt_tokens.copy_(network.srt_tokens.flip(0).clone())
    after = network([row])
    torch.testing.assert_close(before.velocities, after.velocities, atol=1e-5, rtol=0)
    torch.testing.assert_close(before.srt_RNh.flip(1), after.srt_RNh, atol=1e-5, rtol=1e-5)
    network.srt_tokens.normal_()
    assert not torch.allclose(before.velocities[0], network([row]).velocities[0], atol=1e-3)


def test_counted_learned_tokens_have_an_order(config: HBridgeConfig, make_row: MakeRow) -> None:
    network = build(replace(config, srt_position="text"))
    network.srt_tokens.normal_()
    row = make_row(network.config, 0, (4, 4), 5)
    before = network([row]).velocities[0]
    network.srt_tokens.copy_(network.srt_tokens.flip(0).clone())
    assert not torch.allclose(before, network([row]).velocities[0], atol=1e-5)


def test_a_prefix_over_the_noise_alone_does_not_see_the_rest(
    config: HBridgeConfig, make_row: MakeRow
) -> None:
    row = make_row(config, 0, (4, 4), 5, (2, 2))
    scopes = {}
    for scope in ("all", "noise"):
        network = build(replace(config, prefix_scope=scope))
        scopes[scope] = network([row]).velocities[0]
        for layer in network.gen.layers[config.prefix_layers :]:
            layer.norm1.linear.weight.zero_()
            layer.norm1.linear.bias.zero_()
        without = network([replace(row, references=())]).velocities[0]
        assert torch.allclose(network([row]).velocities[0], without, atol=1e-6) == (scope == "noise")
    assert not torch.allclose(scopes["all"], scopes["noise"], atol=1e-4)


def test_learned_positions_have_tables_of_their_own(config: HBridgeConfig, make_row: MakeRow) -> None:
    network = build(replace(config, learned_positions=True, max_learned_positions=6))
    assert network.state_dict()["gen.row_embedding"].shape == (6, 48)
    row = make_row(network.config, 0, (4, 6), 5, (2, 2))
    before = network([row]).velocities[0]
    network.gen.column_embedding.zero_()
    assert not torch.allclose(before, network([row]).velocities[0], atol=1e-4)


def test_every_parameter_learns(config: HBridgeConfig, make_row: MakeRow) -> None:
    network = build(replace(config, learned_positions=True, bridge_post_norm=True)).requires_grad_(True)
    rows = [make_row(config, 0, (4, 4), 5, (4, 4)), make_row(config, 1, (4, 4), 3)]
    output = network(rows, backend="plain")
    (
        torch.stack(output.velocities).square().sum() + network.srt_proj(output.srt_RNh).square().sum()
    ).backward()
    assert not [
        name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not [name for name, p in network.named_parameters() if not p.grad.any()]


def test_gradients_do_not_depend_on_the_backend(network: HBridgeNetwork, make_row: MakeRow) -> None:
    network.requires_grad_(True)
    rows = [make_row(network.config, 0, (4, 4), 5, (2, 2)), make_row(network.config, 1, (4, 4), 3)]
    gradients = []
    for backend in BACKENDS:
        loss = sum(velocity.square().sum() for velocity in network(rows, backend=backend).velocities)
        gradients.append(torch.autograd.grad(loss, list(network.bridge.parameters())))
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)


def test_training_in_bfloat16_keeps_the_residual_stream_in_float32(
    network: HBridgeNetwork, make_row: MakeRow
) -> None:
    rows = [make_row(network.config, seed, (4, 4), 5, *[(2, 2)] * seed) for seed in range(2)]
    exact = network(rows, backend="plain")
    with torch.autocast("cpu", torch.bfloat16):
        output = network(rows, backend="plain")
    assert output.srt_RNh.dtype == output.velocities[0].dtype == torch.float32
    torch.testing.assert_close(output.velocities, exact.velocities, atol=0.3, rtol=0)


def test_attention_on_the_prompt_is_measured_when_asked(network: HBridgeNetwork, make_row: MakeRow) -> None:
    rows = [make_row(network.config, 0, (4, 4), 5, (2, 2))]
    assert network(rows).attention == {}
    measured = network(rows, record_attention=True).attention
    assert list(measured) == list(network.config.pairs)
    assert all(0 < share < 1 for share in measured.values())


def test_at_full_size_the_bridge_has_its_published_share(golden_config: dict[str, Any]) -> None:
    und = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    text = golden_config["understanding"] | und | {"mrope_section": [16, 24, 24], "vision": None}
    config = HBridgeConfig.from_dict({"understanding": text, "generation": {}})
    with torch.device("meta"):
        network = HBridgeNetwork(config)
    per_pair = 2520 * 3584 + 2 * 840 * 512 + 3584 * 2520
    assert len(config.pairs) == 16
    assert sum(p.numel() for p in network.bridge.parameters()) == 16 * per_pair == 302_776_320
    assert round(1 - len(config.pairs) / 28, 3) == 0.429
