"""How many floating-point operations a family's calls took, added up beside them."""

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image
from torch import Tensor

from model.family import Context, Family, PreparedPrompt, Row, TextRow


class Tally:
    """A family that counts what its calls take; everything else is the family's own.

    Used on the engine's thread only: there are no locks.
    """

    def __init__(self, family: Family) -> None:
        self._family, self._flops = family, family.flops
        self._num_flops = 0

    def take(self) -> int:
        """Return what the calls since the last time took."""
        taken, self._num_flops = self._num_flops, 0
        return taken

    def prefill(
        self, prompts: Sequence[PreparedPrompt], *, prefixes: Sequence[Context | None]
    ) -> list[Context]:
        """Prefill and count."""
        contexts = self._family.prefill(prompts, prefixes=prefixes)
        self._num_flops += self._flops.prefill(prompts, prefixes)
        return contexts

    def encode(self, images: Sequence[Image]) -> list[Tensor]:
        """Encode and count."""
        latents = self._family.encode(images)
        self._num_flops += self._flops.encode(latents)
        return latents

    def velocity(self, rows: Sequence[Row]) -> list[Tensor]:
        """Predict velocities and count."""
        velocities = self._family.velocity(rows)
        self._num_flops += self._flops.velocity(rows)
        return velocities

    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Decode and count."""
        pictures = self._family.decode(latents)
        self._num_flops += self._flops.decode(latents)
        return pictures

    def next_tokens(self, rows: Sequence[TextRow]) -> Tensor:
        """Feed tokens and count."""
        num_flops = self._flops.next_tokens(rows)
        logits = self._family.next_tokens(rows)
        self._num_flops += num_flops
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)
