"""Norm and rotation of query and key heads.

Shapes: T tokens, H heads, D head dim, E half of it.
"""

from torch import Tensor, nn

from model.kernels.presence import takes
from model.layers import RMSNorm
from model.rope import rotate_half, rotate_pairs


def norm_rotate_pairs(norm: nn.Module, x_THD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Normalise heads, then rotate channel 2i with channel 2i + 1.

    Args:
        norm: An RMSNorm over D, or an Identity.
    """
    if takes(x_THD):
        from model.kernels.programs import head_rotation as program  # noqa: PLC0415 - needs Triton

        return program.norm_rotate(x_THD, *_weight(norm), cos_TE, sin_TE, pairs=True)
    return rotate_pairs(norm(x_THD), cos_TE, sin_TE)


def norm_rotate_half(norm: nn.Module, x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Normalise heads, then rotate channel i with channel i + D/2; as norm_rotate_pairs."""
    if takes(x_THD):
        from model.kernels.programs import head_rotation as program  # noqa: PLC0415 - needs Triton

        return program.norm_rotate(x_THD, *_weight(norm), cos_TD, sin_TD, pairs=False)
    return rotate_half(norm(x_THD), cos_TD, sin_TD)


def _weight(norm: nn.Module) -> tuple[Tensor | None, float]:
    return (norm.weight, norm.eps) if isinstance(norm, RMSNorm) else (None, 0.0)
