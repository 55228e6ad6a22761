"""The gate of a SwiGLU feed-forward layer.

Source: Shazeer 2020, arXiv:2002.05202, section 2.
"""

from torch import Tensor
from torch.nn.functional import silu

from model.kernels.presence import takes


def gate(a: Tensor, b: Tensor) -> Tensor:
    """Return silu(a) · b, elementwise."""
    if takes(a):
        from model.kernels.programs import swiglu as program  # noqa: PLC0415 - needs Triton

        return program.gate(a, b)
    return gate_plain(a, b)


def gate_plain(a: Tensor, b: Tensor) -> Tensor:
    """The plain twin of gate."""
    return silu(a) * b
