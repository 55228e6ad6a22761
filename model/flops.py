"""Floating-point operations of packed calls, counted from their shapes before they run.

A multiplication and an addition are two. Counted are matrix products, convolutions and attention, as by
PyTorch's FlopCounterMode: a causal mask spares nothing. Norms, activations, rotations and previews are not.

Shapes: C latent channels, Y and X latent rows and columns.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.latents import build_autoencoder

SIDES = 4, 8
"""Of the latents that an autoencoder's cost is known from; any two would do."""


def per_token(*modules: nn.Module) -> int:
    """Return what the linear layers of modules take for a token that passes all of them."""
    layers = (layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear))
    return sum(2 * layer.weight.numel() for layer in layers)


def attention(width: int, num_pairs: int) -> int:
    """Return what attention takes.

    Args:
        width: Channels of all query heads.
        num_pairs: Queries times the keys that each sees, over all segments.
    """
    return 4 * width * num_pairs


def lengths_of_different(lengths: Iterable[tuple[Hashable, int]]) -> list[int]:
    """Return the length of each different thing; those with equal keys are the same."""
    return list(dict(lengths).values())


class AutoencoderFlops:
    """Of diffusers' AutoencoderKL: convolutions grow with the area of a latent, attention with its square.

    Args:
        config: Keyword arguments of the autoencoder; None for a family without one.
    """

    def __init__(self, config: Mapping[str, Any] | None) -> None:
        self._config = config

    def encode(self, latents: Sequence[Tensor]) -> int:
        """Count what it took to encode pictures to these latents [C, Y, X]."""
        return sum(_at(self._costs[0], latent_CYX) for latent_CYX in latents) if self._config else 0

    def decode(self, latents: Sequence[Tensor]) -> int:
        """Count the decoding of latents [C, Y, X]."""
        return sum(_at(self._costs[1], latent_CYX) for latent_CYX in latents) if self._config else 0

    @cached_property
    def _costs(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """What encoding and decoding take for each latent pixel, and for each pair of them.

        Counted once, on a network without memory.
        """
        assert self._config, "there is nothing to count without an autoencoder"
        with torch.device("meta"):
            autoencoder: Any = build_autoencoder(self._config)
            channels = autoencoder.config.latent_channels
            latents = [torch.empty(1, channels, side, side) for side in SIDES]
            pictures = [torch.empty_like(autoencoder.decode(latent).sample) for latent in latents]
        encoding = [_counted(autoencoder.encode, picture) for picture in pictures]
        decoding = [_counted(autoencoder.decode, latent) for latent in latents]
        return _fit(encoding), _fit(decoding)


def _counted(call: Any, *values: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call(*values)
    return int(counter.get_total_flops())


def _fit(counts: Sequence[int]) -> tuple[int, int]:
    """Solve count = linear · area + square · area² for two areas."""
    (one, other), (count, count_of_other) = (side**2 for side in SIDES), counts
    square = (count_of_other * one - count * other) // (one * other * (other - one))
    return (count - square * one**2) // one, square


def _at(cost: tuple[int, int], latent_CYX: Tensor) -> int:
    linear, square = cost
    area = prod(latent_CYX.shape[1:])
    return linear * area + square * area**2
