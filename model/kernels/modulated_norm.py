"""RMSNorm, times the factor of a token's flow time, perhaps added to what went around it.

Shapes: T tokens (for heads, tokens times heads), h width, M different flow times.
"""

import torch
from torch import Tensor

from model.kernels.presence import takes
from model.layers import RMSNorm


def norm_scale(
    norm: RMSNorm, x_Th: Tensor, factor_Mh: Tensor | None = None, place_T: Tensor | None = None
) -> Tensor:
    """Normalise every token and multiply it by the factor of its time.

    Args:
        norm: Its weight and eps.
        x_Th: Tokens; without a factor, of any leading shape.
        factor_Mh: Of each time; None is 1.
        place_T: Which factor each token has; None when each has as many tokens, in order.
    """
    if takes(x_Th):
        from model.kernels.programs import modulated_norm as program  # noqa: PLC0415 - needs Triton

        return program.norm(x_Th, norm.weight, norm.eps, factor_Mh, place_T)
    return norm_scale_plain(norm, x_Th, factor_Mh, place_T)


def norm_add(
    norm: RMSNorm,
    x_Th: Tensor,
    around_Th: Tensor,
    factor_Mh: Tensor | None = None,
    place_T: Tensor | None = None,
) -> Tensor:
    """Add norm_scale of x to what went around it."""
    if takes(x_Th):
        from model.kernels.programs import modulated_norm as program  # noqa: PLC0415 - needs Triton

        return program.norm(x_Th, norm.weight, norm.eps, factor_Mh, place_T, around_Th)
    return around_Th + norm_scale_plain(norm, x_Th, factor_Mh, place_T)


def norm_scale_plain(
    norm: RMSNorm, x_Th: Tensor, factor_Mh: Tensor | None = None, place_T: Tensor | None = None
) -> Tensor:
    """The plain twin of norm_scale."""
    if factor_Mh is None:
        scaled: Tensor = norm(x_Th)
        return scaled
    return scale(norm.normalise(x_Th), norm.weight * factor_Mh, place_T)


def scale(x_Th: Tensor, factor_Mh: Tensor, place_T: Tensor | None) -> Tensor:
    """Multiply every token by the factor of its time."""
    if place_T is not None:
        return x_Th * factor_Mh.index_select(0, place_T)
    return (torch.unflatten(x_Th, 0, (factor_Mh.shape[0], -1)) * factor_Mh[:, None]).flatten(0, 1)
