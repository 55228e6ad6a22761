"""Whether the kernels can take a tensor; everywhere else their plain twins are used."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


@cache
def has_triton() -> bool:
    """Say whether Triton is installed."""
    return find_spec("triton") is not None


def takes(x: Tensor) -> bool:
    """Say whether kernels take a tensor and others like it.

    They compute no gradients. While a block is compiled, the compiler fuses the plain twins by itself.
    """
    return x.is_cuda and not torch.is_grad_enabled() and not torch.compiler.is_compiling() and has_triton()
