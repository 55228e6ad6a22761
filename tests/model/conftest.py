from collections.abc import Callable
from typing import Any

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(scope="session")
def measure() -> Callable[..., tuple[Any, int]]:
    """Return a function that makes a call and returns what it gave and what PyTorch counted in it."""

    def make(call: Callable[..., Any], *values: Any, **named: Any) -> tuple[Any, int]:
        # PyTorch does not count its fused attention on a CPU, and counts the same in plain products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            given = call(*values, **named)
        return given, counter.get_total_flops()

    return make
