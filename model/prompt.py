"""What a family's understanding side reads: turns of text and images, in order.

A prompt knows no tokenizer. The family renders it with its own template; callers who already hold token
ids (tests, golden vectors) give them in `tokens`, with the images in the order of their placeholders.
"""

from dataclasses import dataclass
from typing import Literal

from PIL.Image import Image

Task = Literal["generate", "edit", "understand"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's words and images, in order."""

    role: Role
    parts: tuple[str | Image, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the understanding side reads for one guidance branch or one question.

    Attributes:
        task: Chooses the template, and how deep the prefill goes: an answer needs every layer, a picture
            only those that its generation side reads.
        turns: Text and images in order; one user turn for generate and edit.
        tokens: Token ids with the template and image placeholders already in place; then `turns` only
            carries the images.
    """

    task: Task
    turns: tuple[Turn, ...] = ()
    tokens: tuple[int, ...] | None = None

    @classmethod
    def draw(cls, text: str, images: tuple[Image, ...] = ()) -> "Prompt":
        """Ask for a picture: images first, then the words."""
        return cls(task="edit" if images else "generate", turns=(Turn("user", (*images, text)),))

    @classmethod
    def ask(cls, question: str, images: tuple[Image, ...] = ()) -> "Prompt":
        """Ask a question about images."""
        return cls(task="understand", turns=(Turn("user", (*images, question)),))

    @classmethod
    def of_tokens(cls, tokens: tuple[int, ...], images: tuple[Image, ...] = (), *, task: Task) -> "Prompt":
        """Take token ids as they are."""
        return cls(task=task, turns=(Turn("user", images),), tokens=tokens)

    @property
    def images(self) -> tuple[Image, ...]:
        """All images, in order."""
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Image))
