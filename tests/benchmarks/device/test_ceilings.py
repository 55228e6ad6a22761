import pytest
import torch

from benchmarks.device.ceilings import has_float8, large_shapes, measure_ceilings
from benchmarks.device.timing import Timer

CPU = torch.device("cpu")


def test_rates_are_work_over_time_and_only_large_products_are_ceilings() -> None:
    timer = Timer(CPU, repeats=2, seconds=1)
    rates = list(measure_ceilings(timer, torch.float32, side=32, own=[(8, 6, 4)], copy_bytes=4096))
    assert [rate.is_ceiling for rate in rates] == [True, True, True, False, True]
    own = next(rate for rate in rates if not rate.is_ceiling)
    assert own.name == "matmul float32 8x6x4"
    assert own.per_second * own.seconds.median == pytest.approx(2 * 8 * 6 * 4)
    copy = rates[-1]
    assert (copy.name, copy.unit) == ("copy", "bytes")
    assert copy.per_second * copy.seconds.median == pytest.approx(2 * 4096)


def test_large_products_are_of_several_shapes() -> None:
    assert len({tuple(sorted(shape)) for shape in large_shapes(64)}) == 3


def test_a_processor_multiplies_no_float8() -> None:
    assert not has_float8(CPU)


@pytest.mark.gpu
def test_float8_widths_are_padded_to_what_the_product_demands() -> None:
    device = torch.device("cuda")
    if not has_float8(device):
        pytest.skip("no float8 here")
    timer = Timer(device, repeats=1, seconds=1)
    rates = list(measure_ceilings(timer, torch.bfloat16, side=256, own=[(32, 2520, 840)], copy_bytes=4096))
    assert "matmul fp8 32x2520x840" in {rate.name for rate in rates}
