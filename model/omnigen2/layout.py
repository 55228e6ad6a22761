"""Where the tokens of a row stand: grids of patches and the position ids made from them.

Every row is laid out [head | references | noise]; what the head is (text, learned tokens) is the caller's.

Shapes: N tokens of one image, S tokens of one row, 3 the position axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from model.family import Row

Grid = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Images:
    """The image part of packed rows: their latents' sizes in patches.

    Attributes:
        noise: Patch rows and columns of each row's picture in the making.
        references: The same of each row's reference images.
    """

    noise: tuple[Grid, ...]
    references: tuple[tuple[Grid, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Row], patch: int) -> "Images":
        """Measure the latents of the rows."""
        return cls(
            tuple(grid_of(row.latent_CYX, patch) for row in rows),
            tuple(tuple(grid_of(latent_CYX, patch) for latent_CYX in row.references) for row in rows),
        )

    @property
    def noise_lengths(self) -> tuple[int, ...]:
        """Noise tokens of each row."""
        return tuple(map(prod, self.noise))

    @property
    def reference_lengths(self) -> tuple[int, ...]:
        """Reference tokens of each row, over all its references."""
        return tuple(sum(map(prod, grids)) for grids in self.references)


def grid_of(latent_CYX: Tensor, patch: int) -> Grid:
    """Return how many rows and columns of patches a latent has."""
    rows, columns = latent_CYX.shape[1:]
    assert rows % patch == columns % patch == 0, "a latent must be whole patches"
    return rows // patch, columns // patch


@lru_cache(maxsize=1024)
def image_ids(first: int, grid: Grid) -> Tensor:
    """Return (first, row, column) of every patch, row by row: [N, 3]."""
    first_N, row_N, column_N = torch.meshgrid(
        torch.tensor([first]), torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij"
    )
    return torch.stack([first_N, row_N, column_N], -1).flatten(0, 2)


def axis_starts(first: int, references: Sequence[Grid]) -> list[int]:
    """Return the axis-0 id of each reference and, last, of the noise; each reference spans its longer side.

    Source: OmniGen2, arXiv:2506.18871, as released.
    """
    starts = [first]
    for grid in references:
        starts.append(starts[-1] + max(grid))
    return starts


@lru_cache(maxsize=1024)
def text_ids(first: int, num_tokens: int) -> Tensor:
    """Return (l, l, l) for l from first: [num_tokens, 3]."""
    return torch.arange(first, first + num_tokens)[:, None].expand(-1, 3)


@lru_cache(maxsize=1024)
def joint_ids(num_text: int, references: tuple[Grid, ...], noise: Grid) -> Tensor:
    """Return the ids of one row [text | references | noise]: [S, 3]."""
    starts = axis_starts(num_text, references)
    images = [image_ids(start, grid) for start, grid in zip(starts, (*references, noise), strict=True)]
    return torch.cat([text_ids(0, num_text), *images])
