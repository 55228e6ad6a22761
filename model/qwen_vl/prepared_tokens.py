"""A prompt that is ready to read, and the places where others that begin like it may part from it.

Those places are the ends of its images: an image is long, costs the vision tower, and comes back with other
words.
"""

from array import array
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Self

from model.family import Block, Depth
from model.qwen_vl.token_prompt import TokenPrompt, image_ends


@dataclass(frozen=True, kw_only=True)
class PreparedTokens:
    """Tokens and images, how deep they are to be read, and where they may be cut.

    Attributes:
        image_ends: Tokens up to the end of each image.
    """

    prompt: TokenPrompt
    image_ends: tuple[int, ...]
    depth: Depth

    @classmethod
    def of(cls, prompt: TokenPrompt, depth: Depth, image_token_id: int) -> Self:
        """Find where the images end.

        Raises:
            BadRequest: Images and placeholders do not match.
        """
        ends = image_ends(prompt.tokens, prompt.images, image_token_id)
        return cls(prompt=prompt, image_ends=ends, depth=depth)

    @property
    def num_image_tokens(self) -> int:
        """Of its tokens, those of images."""
        return sum(image.num_tokens for image in self.prompt.images)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Cut after each image; hashed when first asked for."""
        blocks: list[Block] = []
        key, start = b"", 0
        for index, end in enumerate(sorted({*self.image_ends, len(self.prompt.tokens)})):
            hashed = sha256(key)
            hashed.update(array("q", self.prompt.tokens[start:end]))
            for image in self.prompt.images[index : index + 1]:
                hashed.update(image.key)
            key = hashed.digest()
            blocks.append(Block(key=key, num_tokens=end - start))
            start = end
        return tuple(blocks)

    def beginning(self, num_blocks: int) -> "PreparedTokens":
        """Return its first blocks as a prompt, deep enough for prefill to go on to the whole."""
        end = sum(block.num_tokens for block in self.blocks[:num_blocks])
        prompt = TokenPrompt(tokens=self.prompt.tokens[:end], images=self.prompt.images[:num_blocks])
        ends = self.image_ends[:num_blocks]
        return PreparedTokens(prompt=prompt, image_ends=ends, depth=max(self.depth, Depth.BEGINNING))
