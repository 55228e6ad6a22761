import torch
from torch import nn
from torch.optim import Muon

from training.optimizers import optimizers


class Small(nn.Module):
    """Layers as a transformer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.last = nn.Linear(8, 6)


def test_every_parameter_is_moved_by_one() -> None:
    named = list(Small().named_parameters())
    for name, count in (("adamw", 1), ("muon", 2)):
        made = optimizers(name, named, weight_decay=0.0)  # type: ignore[arg-type]
        moved = [id(p) for each in made for group in each.param_groups for p in group["params"]]
        assert len(made) == count
        assert sorted(moved) == sorted(id(p) for _, p in named)


def test_muon_takes_the_matrices_of_repeated_layers() -> None:
    small = Small()
    muon = optimizers("muon", list(small.named_parameters()), weight_decay=0.0)[0]
    assert isinstance(muon, Muon)
    taken = [id(p) for group in muon.param_groups for p in group["params"]]
    assert taken == [id(layer.weight) for layer in small.layers]


def test_a_step_of_muon_goes_as_far_in_every_direction() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(8, 8))
    (muon, _) = optimizers(
        "muon", [("layers.0.weight", weight), ("bias", nn.Parameter(torch.zeros(8)))], weight_decay=0
    )
    weight.grad = torch.randn(8, 8) @ torch.diag(10.0 ** torch.linspace(-0.5, 0.5, 8))
    muon.step()
    spread = torch.linalg.svdvals(weight)
    assert spread.max() / spread.min() < 3 < torch.linalg.cond(weight.grad)
