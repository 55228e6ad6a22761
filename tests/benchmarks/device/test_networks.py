import pytest
import torch

from benchmarks.device.networks import Networks, Unavailable, densely_bridged
from benchmarks.device.plan import MODELS, TOY, Model
from model.quantize import stored_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("model", MODELS)
def test_a_network_is_built_once_and_again_when_it_was_let_go(model: Model) -> None:
    networks = Networks(CPU, TOY, seed=3)
    first = networks.get(model, "float32")
    assert networks.get(model, "float32") is first
    assert networks.weight_bytes == first.weight_bytes == stored_bytes(first.family.module)
    networks.clear()
    assert networks.weight_bytes == 0
    again = networks.get(model, "float32")
    weights = zip(first.family.module.parameters(), again.family.module.parameters(), strict=True)
    assert again is not first
    assert all(torch.equal(one, other) for one, other in weights)


def test_what_a_device_cannot_do_is_unavailable_and_says_why() -> None:
    with pytest.raises(Unavailable, match="fp8"):
        Networks(CPU, TOY, seed=3).get("hbridge", "fp8")


def test_every_pair_bridged_shares_the_weights_and_adds_bridges_alone() -> None:
    networks = Networks(CPU, TOY, seed=3)
    bridged = networks.get("hbridge", "float32").family
    dense = densely_bridged(bridged, networks.config("hbridge"), seed=3)
    own, more = bridged.module.state_dict(), dense.module.state_dict()
    assert all(more[name].data_ptr() == weight.data_ptr() for name, weight in own.items())
    added = more.keys() - own.keys()
    assert {name.split(".")[1] for name in added} == {"0", "5"}
    assert all(name.startswith("bridge.") and more[name].std() > 0 for name in added)
