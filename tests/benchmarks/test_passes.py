import torch

from benchmarks.passes import count, parts
from model.omnigen2.config import OmniGen2Config


def test_an_operation_reads_its_inputs_and_writes_its_output() -> None:
    x = torch.empty(8, 4, device="meta")
    assert count(lambda: x.t() + 1) == (2 * x.nbytes, 1)


def test_no_kernel_moves_more_than_its_twin() -> None:
    for num_bytes, _, fused in parts(OmniGen2Config(), (100, 28)).values():
        assert 0 < fused < num_bytes
