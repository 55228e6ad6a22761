import torch
from torch import nn

from training.average import Average


def test_an_average_is_applied_for_a_while_and_taken_out_again() -> None:
    module = nn.Linear(2, 2)
    average = Average(module)
    old = module.weight.detach().clone()
    with torch.no_grad():
        module.weight += 1
    with average.applied(module):
        assert torch.equal(module.weight, old)
    assert torch.equal(module.weight, old + 1)


def test_an_average_comes_to_rest_where_the_module_rests() -> None:
    module = nn.Linear(2, 2)
    average = Average(module)
    nn.init.ones_(module.weight)
    for _ in range(200):
        average.update(module, 0.9)
    torch.testing.assert_close(average.shadow["weight"], torch.ones(2, 2))


def test_frozen_parameters_have_no_average() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    assert Average(module).shadow.keys() == {"weight"}
