"""Words to token ids and back, for templates whose special tokens no user's text can imitate.

A template is rendered around marks that stand for the user's words. Only afterwards are the words put in,
together with the template's own text between two special tokens, and tokenized with special tokens switched
off. So the ids are those of the whole text, and no words can open or close a turn.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from transformers.utils.chat_template_utils import render_jinja_template

from model.errors import BadCheckpoint, BadRequest
from model.prompt import Turn

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
CHAT_TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    + IMAGE
    + "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARK = re.compile("\ue000(\\d+)\ue001")


def mark(index: int) -> str:
    """Return what stands in a template for the words of this index."""
    return f"\ue000{index}\ue001"


class Tokenizer:
    """A checkpoint's tokenizer and its chat template.

    Attributes:
        special: Ids of the special tokens by their names.
    """

    def __init__(self, words: tokenizers.Tokenizer, chat_template: str = CHAT_TEMPLATE) -> None:
        self._words = words
        self._words.encode_special_tokens = True
        self._chat_template = chat_template
        added = words.get_added_tokens_decoder()
        self.special: dict[str, int] = {
            token.content: index for index, token in added.items() if token.special
        }
        longest_first = sorted(self.special, key=len, reverse=True)
        self._splitter = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer | None":
        """Read a checkpoint's tokenizer; None if it has none.

        Raises:
            BadCheckpoint: Its files cannot be read.
        """
        if not (folder / "tokenizer.json").is_file():
            return None
        try:
            words = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            template = _chat_template(folder)
        except Exception as error:  # tokenizers raises Exception itself
            raise BadCheckpoint(f"{folder}: tokenizer cannot be read: {error}") from error
        return cls(words, template or CHAT_TEMPLATE)

    def render_chat(self, turns: Sequence[Turn]) -> tuple[str, list[str]]:
        """Render a conversation up to the assistant's next turn.

        Returns:
            The template with marks, and the words they stand for.

        Raises:
            BadRequest: The template refuses this order of turns.
        """
        words: list[str] = []
        messages = []
        for turn in turns:
            content: list[dict[str, str]] = []
            for part in turn.parts:
                content.append(
                    {"type": "text", "text": mark(len(words))} if isinstance(part, str) else {"type": "image"}
                )
                words += [part] if isinstance(part, str) else []
            messages.append({"role": turn.role, "content": content})
        try:
            rendered, _ = render_jinja_template(
                [messages], chat_template=self._chat_template, add_generation_prompt=True
            )
        except jinja2.TemplateError as error:
            raise BadRequest(
                f"the conversation does not fit the chat template: {error}", param="messages"
            ) from error
        return rendered[0], words

    def encode(self, rendered: str, words: Sequence[str]) -> list[int]:
        """Tokenize a rendered template with the words in the place of their marks."""
        ids: list[int] = []
        for piece in self._splitter.split(rendered):
            if piece in self.special:
                ids.append(self.special[piece])
            else:
                text = MARK.sub(lambda found: words[int(found[1])], piece)
                ids += self._words.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn ids into words, special tokens left out."""
        return str(self._words.decode(list(tokens), skip_special_tokens=True))


def _chat_template(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not (folder / "tokenizer_config.json").is_file():
        return None
    config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = config.get("chat_template")
    return template if isinstance(template, str) else None
