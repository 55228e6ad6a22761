"""What the understanding expert reads: token ids with image placeholders, and the patches of the images.

Shapes: L tokens, P patches, E values of a patch, 3 the axes t, h, w.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from model.errors import BadRequest


@dataclass(frozen=True, kw_only=True)
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

    @cached_property
    def key(self) -> bytes:
        """Hash of what the vision tower reads."""
        hashed = sha256(array("q", (self.rows, self.columns)))
        hashed.update(self.patches_PE.numpy().data)
        return hashed.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrompt:
    """One prompt, ready to read.

    Attributes:
        tokens: Ids, with one image placeholder for each token of each image, in order.
        images: In the order of their placeholders.
    """

    tokens: tuple[int, ...]
    images: tuple[ImagePatches, ...] = ()

    def after(self, start: int, image_token_id: int) -> "TokenPrompt":
        """Return what follows the first `start` tokens, which end inside no image."""
        ends = image_ends(self.tokens, self.images, image_token_id)
        images = [image for image, end in zip(self.images, ends, strict=True) if end > start]
        return TokenPrompt(tokens=self.tokens[start:], images=tuple(images))


def image_ends(tokens: Sequence[int], images: Sequence[ImagePatches], image_token_id: int) -> tuple[int, ...]:
    """Return for each image how many tokens there are up to its last placeholder.

    Raises:
        BadRequest: Placeholders and images do not match.
    """
    wanted = sum(image.num_tokens for image in images)
    if (found := tokens.count(image_token_id)) != wanted:
        raise BadRequest(f"{found} image placeholders for images of {wanted} tokens", param="prompt")
    ends: list[int] = []
    for image in images:
        start = tokens.index(image_token_id, ends[-1] if ends else 0)
        ends.append(start + image.num_tokens)
        if tokens[start : ends[-1]].count(image_token_id) != image.num_tokens:
            raise BadRequest("the placeholders of an image must follow each other", param="prompt")
    return tuple(ends)


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
    parts: list[Tensor] = []
    start = 0
    for image, end in zip(images, image_ends(tokens, images, image_token_id), strict=True):
        parts += [_text(end - image.num_tokens - start), _image(image)]
        start = end
    parts.append(_text(len(tokens) - start))
    next_id = 0
    ids: list[Tensor] = []
    for part in parts:
        ids.append(part + next_id)
        next_id += int(part.max()) + 1 if len(part) else 0
    return torch.cat(ids), next_id


def _text(length: int) -> Tensor:
    return torch.arange(length)[:, None].expand(-1, 3)


def _image(image: ImagePatches) -> Tensor:
    return torch.cartesian_prod(torch.zeros(1).long(), torch.arange(image.rows), torch.arange(image.columns))
