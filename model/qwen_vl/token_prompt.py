"""What the understanding expert reads: token ids with image placeholders, and the patches of the images.

Shapes: L tokens, P patches, E values of a patch, 3 the axes t, h, w.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import BadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePatches:
    """One image, cut for the vision tower.

    Attributes:
        patches_PE: In merge-cell order; a patch is (channel, frame, row, column).
        rows: Tokens from top to bottom, after merging.
        columns: Tokens from left to right, after merging.
    """

    patches_PE: Tensor
    rows: int
    columns: int

    @property
    def num_tokens(self) -> int:
        """Placeholders that it takes in a prompt."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrompt:
    """One prompt, ready to read.

    Attributes:
        tokens: Ids, with one image placeholder for each token of each image, in order.
        images: In the order of their placeholders.
    """

    tokens: tuple[int, ...]
    images: tuple[ImagePatches, ...] = ()


def position_ids(
    tokens: Sequence[int], images: Sequence[ImagePatches], image_token_id: int
) -> tuple[Tensor, int]:
    """Lay out the multimodal positions of a prompt.

    Text counts up on all three axes at once. An image stands still on t and counts its rows on h and its
    columns on w; text goes on after its largest id.

    Returns:
        ids_L3 on the CPU, and the next free id.

    Raises:
        BadRequest: Placeholders and images do not match.

    Source: Qwen2-VL, Wang et al. 2024, arXiv:2409.12191, section 2.1.
    """
    wanted = sum(image.num_tokens for image in images)
    if (found := sum(token == image_token_id for token in tokens)) != wanted:
        raise BadRequest(f"{found} image placeholders for images of {wanted} tokens", param="prompt")
    ids: list[Tensor] = []
    index, next_id = 0, 0
    waiting = iter(images)
    while index < len(tokens):
        here = (
            _text(tokens, index, image_token_id) if tokens[index] != image_token_id else _image(next(waiting))
        )
        ids.append(here + next_id)
        index += len(here)
        next_id += int(here.max()) + 1
    return torch.cat(ids) if ids else torch.zeros(0, 3, dtype=torch.long), next_id


def _text(tokens: Sequence[int], start: int, image_token_id: int) -> Tensor:
    end = start
    while end < len(tokens) and tokens[end] != image_token_id:
        end += 1
    return torch.arange(end - start)[:, None].expand(-1, 3)


def _image(image: ImagePatches) -> Tensor:
    return torch.cartesian_prod(torch.zeros(1).long(), torch.arange(image.rows), torch.arange(image.columns))
