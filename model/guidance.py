"""Classifier-free guidance with two scales: which branches a step needs, and how they combine.

Branches: FULL reads images and prompt, NO_TEXT reads images and the negative prompt, NO_IMAGE reads the
negative prompt only and drops the references.

Source: Brooks et al. 2023, arXiv:2211.09800, section 3.2.1, in the order OmniGen2 (arXiv:2506.18871) uses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from model.errors import BadRequest


class Branch(StrEnum):
    """What a row is conditioned on."""

    FULL = "full"
    NO_TEXT = "no_text"
    NO_IMAGE = "no_image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """How far to lean away from the unconditioned branches.

    Attributes:
        text: Text scale; 1 or less turns guidance off.
        image: Image scale; 1 or less leaves out the branch of its own.
        interval: Guided while low <= clock <= high, in the family's clock.
        rescale: How far to bring a guided velocity back to the spread of the full branch; 0 is not at all.
    """

    text: float = 1.0
    image: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an interval or a rescale outside [0, 1]."""
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise BadRequest(
                f"guidance_interval [{low}, {high}] must rise within [0, 1]", param="guidance_interval"
            )
        if not 0 <= self.rescale <= 1:
            raise BadRequest(f"guidance_rescale {self.rescale} must be 0 to 1", param="guidance_rescale")

    def branches(self, clock: float, *, has_references: bool) -> tuple[Branch, ...]:
        """Return the branches that a step at this clock needs, FULL first."""
        low, high = self.interval
        if self.text <= 1 or not low <= clock <= high:
            return (Branch.FULL,)
        if self.image > 1 and has_references:
            return (Branch.FULL, Branch.NO_TEXT, Branch.NO_IMAGE)
        return (Branch.FULL, Branch.NO_IMAGE)

    def all_branches(self, *, has_references: bool) -> tuple[Branch, ...]:
        """Return every branch that any step may need."""
        return self.branches(self.interval[0], has_references=has_references)

    def combine(self, velocities: Mapping[Branch, Tensor]) -> Tensor:
        """Join the branches' velocities into the one to follow.

        u + g_image·(r − u) + g_text·(c − r) with three branches, u + g_text·(c − u) with two.
        """
        full = velocities[Branch.FULL]
        if len(velocities) == 1:
            return full
        no_image = velocities[Branch.NO_IMAGE]
        if Branch.NO_TEXT not in velocities:
            guided = no_image + self.text * (full - no_image)
        else:
            no_text = velocities[Branch.NO_TEXT]
            guided = no_image + self.image * (no_text - no_image) + self.text * (full - no_text)
        return rescaled(guided, full, self.rescale) if self.rescale else guided


def rescaled(guided: Tensor, full: Tensor, share: float) -> Tensor:
    """Bring a guided velocity's standard deviation to that of the full branch, by this share of the way.

    Source: Lin et al. 2023, arXiv:2305.08891, section 3.4.
    """
    return guided * (share * full.std() / guided.std() + (1 - share))
