"""Rotary positions: rotate-half M-RoPE for the understanding side, interleaved axial for the generation side.

Both take three ids per token, which the caller lays out; nothing here knows what a token is.

Shapes: T packed tokens, H heads, D head dim, E half of it, 3 the axes t, h, w.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def frequencies(num: int, theta: float, device: torch.device | None = None) -> Tensor:
    """Return theta^(-i/num) for i below num, float32."""
    return theta ** -(torch.arange(num, dtype=torch.float32, device=device) / num)


def mrope_table(ids_T3: Tensor, sections: tuple[int, ...], theta: float) -> tuple[Tensor, Tensor]:
    """Tabulate the rotate-half rotation of multimodal positions.

    Args:
        ids_T3: Integer positions on the axes t, h, w.
        sections: How many of the D/2 frequencies follow each axis, in order; D is twice their sum.
        theta: Base of the frequencies.

    Returns:
        cos_TD and sin_TD, float32.

    Source: Qwen2-VL, Wang et al. 2024, arXiv:2409.12191, section 2.1 (multimodal rotary embedding).
    """
    axes, repeats = (torch.tensor(each, device=ids_T3.device) for each in (range(len(sections)), sections))
    axis_E = torch.repeat_interleave(axes, repeats, output_size=sum(sections))
    angles_TE = ids_T3[:, axis_E].float() * frequencies(sum(sections), theta, ids_T3.device)
    angles_TD = torch.cat([angles_TE, angles_TE], -1)
    return angles_TD.cos(), angles_TD.sin()


def rotate_half(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotate channel i with channel i + D/2; the table is cast to the dtype of x.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.4.2, with the pairing of GPT-NeoX.
    """
    low_THE, high_THE = x_THD.chunk(2, -1)
    cos_T1E, sin_T1E = (each.to(x_THD.dtype)[:, None].chunk(2, -1)[0] for each in (cos_TD, sin_TD))
    turned_low = torch.addcmul(low_THE * cos_T1E, high_THE, sin_T1E, value=-1)
    turned_high = torch.addcmul(high_THE * cos_T1E, low_THE, sin_T1E)
    return torch.cat([turned_low, turned_high], -1)


def axial_table(ids_T3: Tensor, axes_dims: Sequence[int], theta: float) -> tuple[Tensor, Tensor]:
    """Tabulate the interleaved rotation in which each axis owns a run of channels.

    Args:
        ids_T3: Integer positions, one per axis.
        axes_dims: Channels of each axis, each even; D is their sum.
        theta: Base of the frequencies, which start anew on each axis.

    Returns:
        cos_TE and sin_TE, float32, one entry for each pair of channels.

    Source: Black Forest Labs FLUX.1; Lumina-Image 2.0, Qin et al. 2025, arXiv:2503.21758.
    """
    angles_TE = torch.cat(
        [
            ids_T3[:, axis, None].float() * frequencies(dim // 2, theta, ids_T3.device)
            for axis, dim in enumerate(axes_dims)
        ],
        -1,
    )
    return angles_TE.cos(), angles_TE.sin()


def rotate_pairs(x_THD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Rotate channel 2i with channel 2i + 1, as complex numbers, in float32.

    Returns:
        In the dtype of x.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.4.2.
    """
    even_THE, odd_THE = torch.unflatten(x_THD.to(cos_TE.dtype), -1, (-1, 2)).unbind(-1)
    cos_T1E, sin_T1E = cos_TE[:, None], sin_TE[:, None]
    turned_even = torch.addcmul(even_THE * cos_T1E, odd_THE, sin_T1E, value=-1)
    turned_odd = torch.addcmul(odd_THE * cos_T1E, even_THE, sin_T1E)
    return torch.stack([turned_even, turned_odd], -1).flatten(-2).to(x_THD.dtype)
