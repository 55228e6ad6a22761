import torch

from model.kernels.swiglu import gate, gate_plain


def test_a_processor_runs_the_plain_twin() -> None:
    a, b = torch.randn(2, 3, 5)
    assert torch.equal(gate(a, b), gate_plain(a, b))


def test_a_gate_far_below_0_is_shut_and_far_above_it_passes() -> None:
    torch.testing.assert_close(
        gate(torch.tensor([-200.0, 200.0]), torch.tensor([3.0, 3.0])), torch.tensor([0.0, 600.0])
    )
