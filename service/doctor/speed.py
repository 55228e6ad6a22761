"""What a device does at most, measured in a moment, and a real step beside it."""

from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch

from service.doctor.report import Speed

WIDTHS = 512, 1024, 2048, 4096, 8192
COPY_BYTES = 2**27
LONG_SECONDS = 0.15
NUM_TIMES = 3


def measure_speed(device: str, dtype: torch.dtype) -> Speed:
    """Multiply and copy for about a second."""
    is_cuda = device.startswith("cuda")
    block = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device).fill_(1)
    to = torch.empty_like(block)
    host = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True) if is_cuda else None
    return Speed(
        matmul_flops_per_second=_matmul_rate(device, dtype),
        copy_bytes_per_second=COPY_BYTES / best_seconds(lambda: to.copy_(block), device),
        host_copy_bytes_per_second=(
            COPY_BYTES / best_seconds(lambda: to.copy_(host), device) if host is not None else None
        ),
    )


def _matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Return the FLOP per second of square products, of the smallest that take their time."""
    rate = 0.0
    for width in WIDTHS:
        one = torch.randn(width, width, device=device).to(dtype)
        out = torch.empty_like(one)
        begun = perf_counter()
        seconds = best_seconds(partial(torch.mm, one, one, out=out), device)
        rate = max(rate, 2 * width**3 / seconds)
        if perf_counter() - begun > LONG_SECONDS:
            break
    return rate


def best_seconds(call: Callable[[], object], device: str, num_times: int = NUM_TIMES) -> float:
    """Return the shortest of a few calls, after one that does not count."""
    call()
    times = []
    for _ in range(num_times):
        _synchronize(device)
        begun = perf_counter()
        call()
        _synchronize(device)
        times.append(perf_counter() - begun)
    return min(times)


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()
