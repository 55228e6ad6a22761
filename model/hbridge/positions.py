"""Position ids of generation rows [references | learned tokens | noise], for both rotations.

Shapes: S tokens of one row, 3 the position axes.
"""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from model.omnigen2.layout import Grid, axis_starts, image_ids, text_ids

SrtPosition = Literal["origin", "text"]


@lru_cache(maxsize=1024)
def self_ids(references: tuple[Grid, ...], noise: Grid, num_srt: int, srt: SrtPosition) -> Tensor:
    """Return the ids in unbridged layers: each reference moves axis 0 on by its longer side. [S, 3]."""
    *starts, last = axis_starts(0, references)
    srt_S3 = text_ids(last, num_srt) if srt == "text" else torch.tensor([[last, 0, 0]]).expand(num_srt, -1)
    images = [image_ids(start, grid) for start, grid in zip(starts, references, strict=True)]
    return torch.cat([*images, srt_S3, image_ids(last, noise)])


@lru_cache(maxsize=1024)
def bridge_ids(references: tuple[Grid, ...], noise: Grid, num_srt: int, srt: SrtPosition) -> Tensor:
    """Return the ids in bridged layers, less the first free id of the understanding side. [S, 3]."""
    srt_S3 = text_ids(0, num_srt) if srt == "text" else torch.zeros(num_srt, 3, dtype=torch.long)
    images = [image_ids(k, grid) for k, grid in enumerate(references)]
    return torch.cat([*images, srt_S3, image_ids(len(references), noise)])
