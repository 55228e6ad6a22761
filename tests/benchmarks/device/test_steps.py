import pytest
import torch

from benchmarks.device.networks import Networks, Unavailable
from benchmarks.device.plan import TOY
from benchmarks.device.steps import make_step


def test_an_eager_step_is_the_familys_own() -> None:
    network = Networks(torch.device("cpu"), TOY, seed=3).get("hbridge", "float32")
    assert make_step(network, "eager") == network.family.velocity


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("mode", ["compiled", "graphed"])
def test_what_needs_a_gpu_is_unavailable_without(mode: str) -> None:
    network = Networks(torch.device("cpu"), TOY, seed=3).get("hbridge", "float32")
    with pytest.raises(Unavailable):
        make_step(network, mode)  # type: ignore[arg-type]
