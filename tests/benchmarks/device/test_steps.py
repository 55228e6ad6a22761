import pytest
import torch

from benchmarks.device.networks import Network, Networks, Unavailable
from benchmarks.device.plan import MODELS, TOY, Case, Model
from benchmarks.device.steps import make_step, on_bounds, prepare, stack_sizes
from benchmarks.device.workload import Workload
from model.family import Row
from model.omnigen2.stack import unchanged


def ready(model: Model) -> tuple[Network, list[Row]]:
    network = Networks(torch.device("cpu"), TOY, seed=3).get(model, "float32")
    case = Case(kind="step", model=model, task="edit", side=32, batch=2)
    return network, Workload(network.family, case, TOY, seed=5).pictures().rows()


@pytest.mark.parametrize("model", MODELS)
def test_prepared_sizes_take_all_stacks_of_a_step_and_change_nothing(model: Model) -> None:
    network, rows = ready(model)
    eager = make_step(network, "eager", rows)(rows)
    runner = prepare(network.family, rows, backend="plain", transform=unchanged, has_graphs=False)
    torch.testing.assert_close(network.family.velocity(rows), eager, rtol=0, atol=1e-5)
    assert runner.num_prepared > 0
    assert (runner.take_fallbacks(), runner.problems) == ({}, {})


def test_an_eager_step_is_prepared_for_nothing() -> None:
    network, rows = ready("hbridge")
    runner = prepare(network.family, rows, backend="plain", transform=unchanged, has_graphs=False)
    known = runner.num_prepared
    step = make_step(network, "eager", rows)
    runner.problems["bridged"] = "not asked again"
    step(rows)
    assert (runner.num_prepared, runner.take_fallbacks()) == (known, {})


def test_every_stack_of_a_step_is_met() -> None:
    network, rows = ready("omnigen2")
    sizes = stack_sizes(network.family, rows)
    tokens = sum(
        latent.shape[1] * latent.shape[2] // 4 for row in rows for latent in (row.latent_CYX, *row.references)
    )
    assert max(sizes) == tokens + sum(row.context.num_tokens for row in rows)


def test_prepared_sizes_have_a_kernel_that_reads_where_segments_begin() -> None:
    assert [on_bounds(backend) for backend in ("varlen", "sdpa", "triton")] == ["varlen", "triton", "triton"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("mode", ["compiled", "graphed"])
def test_what_needs_a_gpu_is_unavailable_without(mode: str) -> None:
    network, rows = ready("hbridge")
    with pytest.raises(Unavailable, match="CUDA"):
        make_step(network, mode, rows)  # type: ignore[arg-type]
