"""Layers that more than one generation network has, and packing of token rows.

Nothing here knows a family.

Shapes: B samples, T packed tokens, h width, e time width, C latent channels, Y and X latent rows and
columns, Z values of one patch.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from model.kernels.swiglu import gate

Picked = TypeVar("Picked")


def time_sinusoid(times_B: Tensor, num_channels: int, scale: float) -> Tensor:
    """Return [cos | sin] of scaled times at geometric frequencies from 1 down to 1e-4, float32.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B, with the cosines first.
    """
    num = num_channels // 2
    index = torch.arange(num, dtype=torch.float32, device=times_B.device)
    angles_BZ = scale * (times_B.float()[:, None] * torch.exp(-math.log(1e4) * index / num))
    return torch.cat([angles_BZ.cos(), angles_BZ.sin()], -1)


class RMSNorm(nn.Module):
    """Root-mean-square norm in the dtype of its weight, also under autocast.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the last axis."""
        return self.normalise(x) * self.weight

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise without the weight, for a caller that multiplies it with something else first."""
        x = x.to(self.weight.dtype)
        if x.requires_grad and x.device.type == "cpu":
            return cast(Tensor, _Normalise.apply(x, self.eps))  # type: ignore[no-untyped-call]
        return rms_norm(x, self.weight.shape, None, self.eps)


class _Normalise(torch.autograd.Function):
    """The same in few passes backwards: PyTorch's own takes three times as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
        scale = (square + eps).rsqrt()
        y: Tensor = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        along = (grad_y * y).mean(-1, keepdim=True)
        grad_x: Tensor = torch.addcmul(grad_y, y, along, value=-1) * scale
        return grad_x, None


class TimestepEmbedding(nn.Module):
    """Two linear layers over the sinusoid of the flow time."""

    def __init__(self, num_channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(num_channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, sinusoid_BZ: Tensor) -> Tensor:
        """Return time embeddings [B, e] in the dtype of the weights."""
        embedded: Tensor = self.linear_2(silu(self.linear_1(sinusoid_BZ.to(self.linear_1.weight.dtype))))
        return embedded


class GatedFeedForward(nn.Module):
    """linear_2(silu(linear_1 z) · linear_3 z).

    Source: Shazeer 2020, arXiv:2002.05202, section 2 (SwiGLU).
    """

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, inner_width, bias=False)
        self.linear_2 = nn.Linear(inner_width, width, bias=False)
        self.linear_3 = nn.Linear(width, inner_width, bias=False)

    def forward(self, z_Th: Tensor) -> Tensor:
        """Apply to each token."""
        out_Th: Tensor = self.linear_2(gate(self.linear_1(z_Th), self.linear_3(z_Th)))
        return out_Th


def patchify(latents: Sequence[Tensor], patch: int) -> Tensor:
    """Cut latents [C, Y, X] of any sizes into packed patches [T, Z].

    Patches come row by row; inside a patch the order is (row, column, channel), channel fastest.
    """
    if len({latent_CYX.shape for latent_CYX in latents}) == 1:
        return _patches(torch.stack(list(latents)), patch)
    return torch.cat([_patches(latent_CYX[None], patch) for latent_CYX in latents])


def _patches(latents_BCYX: Tensor, patch: int) -> Tensor:
    cells = torch.unflatten(torch.unflatten(latents_BCYX, 3, (-1, patch)), 2, (-1, patch))
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(0, 2)


def unpatchify(patches_TZ: Tensor, grids: Sequence[tuple[int, int]], patch: int) -> list[Tensor]:
    """Join packed patches into latents [C, Y, X]; the inverse of patchify.

    Args:
        patches_TZ: Patches of all latents.
        grids: Patch rows and columns of each latent.
        patch: Side of a patch in latent pixels.
    """
    if len(set(grids)) == 1:
        return list(_latents(torch.unflatten(patches_TZ, 0, (len(grids), -1)), grids[0], patch).unbind())
    pieces = torch.split(patches_TZ, [rows * columns for rows, columns in grids])
    return [_latents(piece_TZ[None], grid, patch)[0] for piece_TZ, grid in zip(pieces, grids, strict=True)]


def _latents(patches_BTZ: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    cells = torch.unflatten(torch.unflatten(patches_BTZ, 2, (patch, patch, -1)), 1, grid)
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which of many things are the same, so that each is computed once.

    Attributes:
        firsts: Where each different thing is first met.
        places: For each of the many, its place among the different ones.
    """

    firsts: tuple[int, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, keys: Sequence[Hashable]) -> "Sharing":
        """Things with equal keys are the same."""
        place = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        firsts = tuple(keys.index(key) for key in place)
        return cls(firsts, tuple(place[key] for key in keys))

    @property
    def is_idle(self) -> bool:
        """Whether all are different."""
        return len(self.firsts) == len(self.places)

    def pick(self, values: Sequence[Picked]) -> list[Picked]:
        """Return the different ones of the many."""
        return [values[first] for first in self.firsts]

    def spread(self, packed: Tensor, lengths: Sequence[int]) -> Tensor:
        """Repeat packed tokens of the different ones for all of the many.

        Args:
            packed: Tokens of the different ones.
            lengths: How many tokens each of them has.
        """
        if self.is_idle:
            return packed
        pieces = torch.split(packed, list(lengths))
        return torch.cat([pieces[place] for place in self.places])


def interleave(*streams: tuple[Tensor, Sequence[int]]) -> Tensor:
    """Join packed streams row by row: all of row 0 from each stream in order, then row 1, and so on.

    Args:
        streams: A packed tensor and how many of its tokens each row has.
    """
    split = [torch.split(packed, list(lengths)) for packed, lengths in streams]
    return torch.cat([piece for row in zip(*split, strict=True) for piece in row])


def part(packed: Tensor, lengths: Sequence[Sequence[int]], index: int) -> Tensor:
    """Take one stream back out of what interleave joined.

    Args:
        packed: Interleaved tokens.
        lengths: For each row, how many tokens each stream has.
        index: Which stream.
    """
    pieces = torch.split(packed, [length for row in lengths for length in row])
    return torch.cat(pieces[index :: len(lengths[0])])
