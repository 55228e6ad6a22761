"""From a prompt's words and pictures to what the understanding expert reads, and back to words."""

import re
from collections.abc import Sequence

from model.errors import BadCheckpoint, BadRequest, MissingCapability, PromptTooLong
from model.family import Depth
from model.prompt import Prompt
from model.qwen_vl.config import QwenVLConfig
from model.qwen_vl.patches import cut
from model.qwen_vl.prepared_tokens import PreparedTokens
from model.qwen_vl.token_prompt import ImagePatches, TokenPrompt
from model.qwen_vl.tokenizer import IMAGE, IMAGE_PAD, Tokenizer, mark

ENDS = ("<|im_end|>", "<|endoftext|>")


class Processor:
    """Renders, tokenizes and cuts prompts for one checkpoint.

    Args:
        config: The expert's.
        tokenizer: None for a checkpoint without one; it then takes token ids only.
        draw_template: Wraps {prompt}, and {images} if the expert is to see the images of an edit.
        max_prompt_tokens: Longer prompts are refused.

    Raises:
        BadCheckpoint: The tokenizer lacks special tokens of the template or of images.
    """

    def __init__(
        self, config: QwenVLConfig, tokenizer: Tokenizer | None, *, draw_template: str, max_prompt_tokens: int
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.draw_template = draw_template
        self.max_prompt_tokens = max_prompt_tokens
        if problems := self._problems():
            raise BadCheckpoint("; ".join(problems))

    @property
    def sees_references(self) -> bool:
        """Whether the expert reads the images of an edit."""
        return self.config.vision is not None and "{images}" in self.draw_template

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        special = {} if self.tokenizer is None else self.tokenizer.special
        return frozenset({self.config.eos_token_id, *(special[end] for end in ENDS if end in special)})

    def encode(self, prompt: Prompt) -> TokenPrompt:
        """Make a prompt ready to read.

        Raises:
            BadRequest: It has no tokens, or ids outside the vocabulary.
            InvalidImage: A picture is too long for its width.
            MissingCapability: Words for a checkpoint without a tokenizer, or a question about images for
                one that reads none.
            PromptTooLong: It has more tokens than max_prompt_tokens.
        """
        images = self._images(prompt)
        tokens = prompt.tokens if prompt.tokens is not None else self._tokens(prompt, images)
        if not tokens:
            raise BadRequest("the prompt is empty", param="prompt")
        if not all(0 <= token < self.config.vocab_size for token in tokens):
            raise BadRequest(f"token ids must be 0 to {self.config.vocab_size - 1}", param="prompt")
        if len(tokens) > self.max_prompt_tokens:
            raise PromptTooLong(
                f"the prompt takes {len(tokens)} tokens, {self.max_prompt_tokens} at most", param="prompt"
            )
        return TokenPrompt(tokens=tokens, images=images)

    def prepare(self, prompt: Prompt) -> PreparedTokens:
        """Encode a prompt, and say how deep it is to be read and where it may be cut.

        Raises:
            BadRequest: As encode; or images and placeholders do not match.
            MissingCapability: As encode.
        """
        depth = Depth.ANSWER if prompt.task == "understand" else Depth.PICTURE
        return PreparedTokens.of(self.encode(prompt), depth, self.config.image_token_id)

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn answer tokens into words.

        Raises:
            MissingCapability: The checkpoint has no tokenizer.
        """
        return self._required_tokenizer().decode(tokens)

    def _images(self, prompt: Prompt) -> tuple[ImagePatches, ...]:
        if not prompt.images or (prompt.task != "understand" and not self.sees_references):
            return ()
        vision = self.config.vision
        if vision is None:
            raise MissingCapability("this checkpoint's understanding expert reads no images")
        return tuple(cut(image, vision) for image in prompt.images)

    def _tokens(self, prompt: Prompt, images: Sequence[ImagePatches]) -> tuple[int, ...]:
        tokenizer = self._required_tokenizer()
        if prompt.task == "understand":
            ids = tokenizer.encode(*tokenizer.render_chat(prompt.turns))
        else:
            words = "".join(part for turn in prompt.turns for part in turn.parts if isinstance(part, str))
            template = self.draw_template.replace("{images}", IMAGE * len(images))
            ids = tokenizer.encode(template.replace("{prompt}", mark(0)), [words])
        waiting = iter(images)
        pad = self.config.image_token_id
        return tuple(
            token for one in ids for token in ([one] * next(waiting).num_tokens if one == pad else [one])
        )

    def _required_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise MissingCapability("this checkpoint has no tokenizer; it reads token ids only")
        return self.tokenizer

    def _problems(self) -> list[str]:
        if self.tokenizer is None:
            return []
        special = self.tokenizer.special
        needed = sorted(set(re.findall(r"<\|\w+\|>", self.draw_template)) - special.keys())
        problems = [f"the tokenizer lacks {name} of prompt_template" for name in needed]
        if self.config.vision is not None and special.get(IMAGE_PAD) != self.config.image_token_id:
            problems.append(f"the tokenizer's {IMAGE_PAD} is not image_token_id {self.config.image_token_id}")
        return problems
