"""Pictures somewhere on their way from noise, and how far a network is from leading them on.

Shapes: R rows, C latent channels, Y and X latent rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from model.family import Row


class NoContext:
    """A context that covers nothing."""

    num_tokens = 0
    num_bytes = 0


@dataclass(frozen=True, slots=True)
class Noised:
    """What a network is shown, and the velocities that it should find.

    Attributes:
        rows: Of a velocity call; their contexts travel packed, beside them.
        targets: Data less noise, [C, Y, X] of each row.
    """

    rows: list[Row]
    targets: list[Tensor]

    @classmethod
    def of(
        cls,
        latents: Sequence[Tensor],
        references: Sequence[tuple[Tensor, ...]],
        generator: torch.Generator,
        mean: float,
    ) -> Self:
        """Draw noise and a time for each picture.

        Args:
            latents: Pictures to make, [C, Y, X] each.
            references: Latents of each picture's references.
            generator: On the CPU.
            mean: Of the law of times, as in draw_times.
        """
        noises = [torch.randn(latent.shape, generator=generator).to(latent.device) for latent in latents]
        times = draw_times(generator, len(latents), mean).tolist()
        targets = [latent - noise for latent, noise in zip(latents, noises, strict=True)]
        rows = [
            Row(
                latent_CYX=noise + time * target, time=time, context=NoContext(), references=references[index]
            )
            for index, (noise, time, target) in enumerate(zip(noises, times, targets, strict=True))
        ]
        return cls(rows, targets)

    def loss(self, velocities: Sequence[Tensor]) -> Tensor:
        """Return the mean over pictures of the mean squared error of each.

        Source: Lipman et al. 2022, arXiv:2210.02747, on straight paths.
        """
        pairs = zip(velocities, self.targets, strict=True)
        return torch.stack([mse_loss(velocity, target) for velocity, target in pairs]).mean()


def draw_times(generator: torch.Generator, count: int, mean: float) -> Tensor:
    """Draw flow times in (0, 1), logit-normal of deviation 1.

    Args:
        generator: On the CPU.
        count: How many.
        mean: Below 0 leans to noise, where a picture's content is decided.

    Source: Esser et al. 2024, arXiv:2403.03206, section 3.1.
    """
    return torch.sigmoid(torch.randn(count, generator=generator) + mean)
