from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from model.compiled import CompileConfig, CompiledRunner, compile_blocks, token_buckets
from model.family import Row
from model.hbridge.config import HBridgeConfig
from model.hbridge.network import HBridgeNetwork
from model.omnigen2.stack import Transform, unchanged
from model.qwen_vl.context import KVContext

MakeRow = Callable[..., Row]


@pytest.fixture
def network(golden_config: dict[str, Any]) -> HBridgeNetwork:
    torch.manual_seed(0)
    network = HBridgeNetwork(HBridgeConfig.from_dict(golden_config)).requires_grad_(False)
    for layer in network.gen.layers:
        layer.norm1.linear.bias.add_(0.5)
    return network


@pytest.fixture
def rows(network: HBridgeNetwork, make_row: MakeRow) -> list[Row]:
    shapes = [((4, 6), 5, (4, 4), (2, 6)), ((6, 2), 3), ((4, 6), 7, (2, 2))]
    return [make_row(network.config, seed, *shape) for seed, shape in enumerate(shapes)]


def compiled(transform: Transform = unchanged, **changes: Any) -> CompiledRunner:
    given = {"tokens": (16, 64), "rows": 4, "before": 32, "transform": transform} | changes
    return CompiledRunner(CompileConfig(**given))


def velocities(network: HBridgeNetwork, rows: list[Row]) -> list[Tensor]:
    with torch.inference_mode():
        return network(rows).velocities


def test_what_is_padded_is_what_is_not(network: HBridgeNetwork, rows: list[Row]) -> None:
    expected = [velocities(network, each) for each in (rows, rows[1:2], rows[:1])]
    network.gen.runner = runner = compiled()
    for each, before in zip((rows, rows[1:2], rows[:1]), expected, strict=True):
        for velocity, as_it_was in zip(velocities(network, each), before, strict=True):
            torch.testing.assert_close(velocity, as_it_was, atol=1e-5, rtol=1e-5)
    assert runner.take_fallbacks() == {}
    assert runner.num_prepared == 8


def test_what_was_in_the_padding_changes_nothing(network: HBridgeNetwork, rows: list[Row]) -> None:
    network.gen.runner = compiled()
    first = velocities(network, rows[1:2])
    velocities(network, rows)
    assert torch.equal(first[0], velocities(network, rows[1:2])[0])


@pytest.mark.parametrize(
    ("changes", "reason"), [({"tokens": (16,)}, "tokens"), ({"rows": 2}, "rows"), ({"before": 8}, "context")]
)
def test_what_does_not_fit_is_computed_as_it_is_and_counted(
    network: HBridgeNetwork, rows: list[Row], changes: dict[str, Any], reason: str
) -> None:
    expected = velocities(network, rows)
    network.gen.runner = runner = compiled(**changes)
    for velocity, before in zip(velocities(network, rows), expected, strict=True):
        torch.testing.assert_close(velocity, before, atol=1e-5, rtol=1e-5)
    assert set(runner.take_fallbacks()) == {reason}
    assert runner.take_fallbacks() == {}


def test_what_cannot_be_prepared_is_computed_as_it_is_and_says_why(
    network: HBridgeNetwork, rows: list[Row]
) -> None:
    def fail(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        raise RuntimeError(f"no compiler for {function.__name__}")

    expected = velocities(network, rows)
    network.gen.runner = runner = compiled(fail)
    assert all(map(torch.equal, velocities(network, rows), expected))
    assert runner.problems["bridged"] == "RuntimeError: no compiler for pass_block"
    assert set(runner.take_fallbacks()) == {"unprepared"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_block_is_compiled_once_for_a_size_whatever_its_weights(
    network: HBridgeNetwork, rows: list[Row]
) -> None:
    sizes: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        sizes.append(1)
        return graph.forward

    expected = velocities(network, rows)
    network.gen.runner = runner = compiled(compile_blocks(count))
    for velocity, before in zip(velocities(network, rows), expected, strict=True):
        torch.testing.assert_close(velocity, before, atol=1e-5, rtol=1e-5)
    assert runner.problems == {}
    # A plain and a bridged block, in two sizes.
    assert len(sizes) == 4


@pytest.mark.parametrize("most", [1, 256, 300, 8704, 30000])
def test_buckets_reach_as_far_as_asked_and_pad_little(most: int) -> None:
    buckets = token_buckets(most)
    assert buckets[-1] >= most
    assert all(more - less <= max(256, less / 8) for less, more in pairwise(buckets))
    assert all(each % 256 == 0 for each in buckets)


def test_buckets_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match="must rise"):
        CompileConfig(tokens=(64, 64))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # of the compiler about itself
def test_a_compiler_gives_the_same(network: HBridgeNetwork, rows: list[Row]) -> None:
    expected = velocities(network, rows)
    network.gen.runner = runner = compiled(compile_blocks(), tokens=(64,))
    for velocity, before in zip(velocities(network, rows), expected, strict=True):
        torch.testing.assert_close(velocity, before, atol=1e-5, rtol=1e-5)
    assert runner.problems == runner.take_fallbacks() == {}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of Triton about itself
def test_a_graph_gives_what_it_was_captured_from(network: HBridgeNetwork, rows: list[Row]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    network.cuda()
    network.gen.backend = "triton"
    rows = [on_gpu(row) for row in rows]
    expected = [velocities(network, each) for each in (rows, rows[1:2])]
    network.gen.runner = runner = compiled(backend="triton", has_graphs=True)
    for each, before in zip((rows, rows[1:2]), expected, strict=True):
        for velocity, as_it_was in zip(velocities(network, each), before, strict=True):
            torch.testing.assert_close(velocity, as_it_was, atol=1e-4, rtol=1e-4)
    assert runner.problems == runner.take_fallbacks() == {}


def on_gpu(row: Row) -> Row:
    context = cast(KVContext, row.context)
    moved = replace(
        context,
        keys=tuple(each.cuda() for each in context.keys),
        values=tuple(each.cuda() for each in context.values),
    )
    references = tuple(each.cuda() for each in row.references)
    return replace(row, latent_CYX=row.latent_CYX.cuda(), context=moved, references=references)
