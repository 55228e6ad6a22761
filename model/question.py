"""A question about pictures: what is asked, the answer in the making, and the answer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import BadRequest, TooManyReferences
from model.family import Capabilities, Context, Family, TextRow
from model.prompt import Prompt, Turn
from model.request import Usage, check_task, chosen_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about images, or a conversation that ends in one.

    Attributes:
        turns: Conversation in order; the last turn is the user's.
        temperature: 0 takes the likeliest token.
        stop: Words that end the answer and are not part of it.
    """

    turns: tuple[Turn, ...]
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer; finish_reason is "stop" or "length"."""

    text: str
    finish_reason: str
    seed: int
    usage: Usage


def read_question(question: Question, can: Capabilities) -> Prompt:
    """Return the prompt of a question that the model can answer.

    Raises:
        BadRequest: The conversation cannot be read as asked.
        MissingCapability: The checkpoint does not answer.
    """
    check_task("understand", can)
    if question.max_tokens < 1:
        raise BadRequest(f"max_tokens {question.max_tokens} must be at least 1", param="max_tokens")
    check_sampling(question.temperature, question.top_p)
    prompt = Prompt(task="understand", turns=question.turns)
    if len(prompt.images) > can.max_images:
        raise TooManyReferences(f"{len(prompt.images)} images, {can.max_images} at most", param="images")
    return prompt


class Reply:
    """An answer in the making: says which token to feed next, and takes the logits that come of it.

    Knows no network call and no clock, so that many replies may share a packed call.

    Attributes:
        tokens: Answered so far.
        text: What they say.
        usage: What it took so far.
    """

    def __init__(self, family: Family, question: Question, context: Context) -> None:
        self.family, self.question = family, question
        self.seed = chosen_seed(question.seed)
        self.tokens: list[int] = []
        self.text = ""
        self.usage = Usage(prompt_tokens=context.num_tokens, prefilled_tokens=context.num_tokens)
        self._finish_reason: str | None = None
        self._generator = torch.Generator().manual_seed(self.seed)
        self._cache, logits_V = family.begin_answer(context)
        self.advance(logits_V)

    @property
    def is_done(self) -> bool:
        """Whether the answer has ended."""
        return self._finish_reason is not None

    def row(self) -> TextRow:
        """Return what the coming decoding step must feed."""
        return TextRow(token=self.tokens[-1], cache=self._cache)

    def advance(self, logits_V: Tensor) -> None:
        """Choose the next token."""
        question = self.question
        token = choose_token(logits_V, question.temperature, question.top_p, self._generator)
        if token in self.family.end_tokens:
            self._finish_reason = "stop"
            return
        self.tokens.append(token)
        self.usage.completion_tokens = len(self.tokens)
        self.text = self.family.text(self.tokens)
        found = [self.text.index(word) for word in question.stop if word and word in self.text]
        if found:
            self.text, self._finish_reason = self.text[: min(found)], "stop"
        elif len(self.tokens) == question.max_tokens:
            self._finish_reason = "length"

    def finish(self) -> Answered:
        """Return the answer."""
        assert self._finish_reason, "an answer ends with a reason"
        return Answered(
            text=self.text.strip(), finish_reason=self._finish_reason, seed=self.seed, usage=self.usage
        )


def choose_token(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Take the likeliest token, or draw one from the smallest set of tokens that holds top_p of the mass.

    Raises:
        BadRequest: temperature or top_p is out of range.

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1 (nucleus sampling).
    """
    check_sampling(temperature, top_p)
    if temperature == 0:
        return int(logits_V.argmax())
    weights_V, order_V = (logits_V.float().cpu() / temperature).softmax(-1).sort(descending=True)
    kept_V = weights_V * (weights_V.cumsum(-1) - weights_V < top_p)
    return int(order_V[torch.multinomial(kept_V, 1, generator=generator)])


def check_sampling(temperature: float, top_p: float) -> None:
    """Refuse what no token can be drawn by.

    Raises:
        BadRequest: temperature or top_p is out of range.
    """
    if temperature < 0:
        raise BadRequest(f"temperature {temperature} must be 0 or more", param="temperature")
    if not 0 < top_p <= 1:
        raise BadRequest(f"top_p {top_p} must be above 0 and at most 1", param="top_p")
