"""What came of a chat in the OpenAI API's words: the whole answer, or the chunks of a stream."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from model.request import Progress
from service.deltas import Deltas
from service.deps import Service
from service.engine.job import Event, Finished
from service.openai_chat import Chat
from service.schemas.answers import ImagesAnswer, TextAnswer
from service.schemas.openai_chat import (
    Address,
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    ChatUsage,
    Choice,
    ChunkChoice,
    Delta,
    PictureOut,
    PromptDetails,
)
from service.schemas.openai_images import TokenDetails, usage_of
from service.streaming import Message
from service.tasks import answer


class Answers:
    """What came of a chat's jobs so far, in the OpenAI API's words."""

    def __init__(self, service: Service, chat: Chat) -> None:
        self._service, self._chat = service, chat
        self._taken: list[ImagesAnswer | TextAnswer] = []

    @property
    def are_whole(self) -> bool:
        """Whether all jobs have ended."""
        return len(self._taken) == len(self._chat.parts)

    def take(self, finished: Finished) -> ImagesAnswer | TextAnswer:
        """Take the result of the next job; writes files, so not on the event loop."""
        job, body = self._chat.parts[len(self._taken)]
        self.add(answer(self._service, job, body, finished))
        return self._taken[-1]

    def add(self, whole: ImagesAnswer | TextAnswer) -> None:
        """Take the next answer."""
        self._taken.append(whole)

    @property
    def message(self) -> AssistantMessage:
        """The assistant's turn."""
        words = next((each.answer for each in self._taken if isinstance(each, TextAnswer)), None)
        pictures = [picture for each in self._taken for picture in pictures_of(each)]
        return AssistantMessage(content=words, images=pictures or None)

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """Why the words ended."""
        ends = (each.finish_reason for each in self._taken if isinstance(each, TextAnswer))
        return next(ends, "stop")

    @property
    def usage(self) -> ChatUsage:
        """What all jobs took."""
        pictures = [usage_of(each) for each in self._taken if isinstance(each, ImagesAnswer)]
        words = [each.usage.completion_tokens for each in self._taken if isinstance(each, TextAnswer)]
        prompt = sum(each.usage.prompt_tokens for each in self._taken)
        images = sum(each.usage.prompt_image_tokens for each in self._taken)
        cached = sum(min(each.usage.cached_prompt_tokens, each.usage.prompt_tokens) for each in self._taken)
        made = TokenDetails(image_tokens=sum(each.output_tokens for each in pictures), text_tokens=sum(words))
        completion = made.image_tokens + made.text_tokens
        return ChatUsage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptDetails(
                image_tokens=images, text_tokens=prompt - images, cached_tokens=cached
            ),
            completion_tokens_details=made,
        )

    @property
    def said(self) -> dict[str, Any]:
        """What the answer says beside the message."""
        asked = self._chat.asked
        warnings = [warning for each in self._taken for warning in each.warnings]
        pictures = [each for each in self._taken if isinstance(each, ImagesAnswer)]
        if pictures and len(asked.messages) > 1:
            warnings.append("the picture is made from the last message alone")
        seeds = [each.seed if isinstance(each, TextAnswer) else each.receipt.seed for each in self._taken]
        receipt = pictures[0].receipt if pictures else None
        return {"seed": seeds[0], "metadata": asked.metadata, "warnings": warnings, "receipt": receipt}


def pictures_of(whole: ImagesAnswer | TextAnswer) -> list[PictureOut]:
    """Put an answer's pictures into a message."""
    images = whole.images if isinstance(whole, ImagesAnswer) else []
    urls = [f"data:{image.mime_type};base64,{image.b64_json}" for image in images]
    return [PictureOut(index=index, image_url=Address(url=url)) for index, url in enumerate(urls)]


def fingerprint(service: Service) -> str:
    """Name the weights: with the same, a seed answers the same."""
    return f"fp_{service.client.card.weights_hash[:12]}"


def completion(service: Service, chat: Chat, finished: Sequence[Finished]) -> ChatCompletion:
    """Make the answer to a chat; writes files, so not on the event loop."""
    answers = Answers(service, chat)
    for each in finished:
        answers.take(each)
    return _whole(service, chat, answers, int(time.time()))


def completion_of(
    service: Service, chat: Chat, wholes: Sequence[ImagesAnswer | TextAnswer]
) -> ChatCompletion:
    """Make the answer to a chat from the answers of its jobs."""
    answers = Answers(service, chat)
    for each in wholes:
        answers.add(each)
    return _whole(service, chat, answers, wholes[-1].created)


def _whole(service: Service, chat: Chat, answers: Answers, created: int) -> ChatCompletion:
    return ChatCompletion(
        id=chat.id,
        created=created,
        model=service.client.model_id,
        choices=[Choice(message=answers.message, finish_reason=answers.finish_reason)],
        usage=answers.usage,
        system_fingerprint=fingerprint(service),
        **answers.said,
    )


class ChatNarration:
    """Tells a chat's jobs, that of words first: words as they come, then the picture.

    Called with each event in order; it writes files, so not on the event loop.
    """

    def __init__(self, service: Service, chat: Chat) -> None:
        self._chat = chat
        self._answers = Answers(service, chat)
        self._deltas = Deltas(chat.asked.stop)
        options = chat.asked.stream_options
        self._tells_usage = options is not None and options.include_usage
        self._has_begun = False
        self._head: dict[str, Any] = {
            "id": chat.id,
            "created": int(time.time()),
            "model": service.client.model_id,
            "system_fingerprint": fingerprint(service),
        }

    def __call__(self, event: Event) -> Iterator[Message]:
        """Put an event in the wire's words."""
        if not self._has_begun:
            self._has_begun = True
            yield self._chunk(Delta(role="assistant", content=""))
        if isinstance(event, Finished):
            yield from self._end(event)
        elif isinstance(event, Progress) and event.stage == "answer":
            yield from self._words(self._deltas.grow(event.text))

    def _end(self, event: Finished) -> Iterator[Message]:
        whole = self._answers.take(event)
        if isinstance(whole, TextAnswer):
            yield from self._words(self._deltas.end(whole.answer))
        else:
            yield self._chunk(Delta(images=pictures_of(whole)))
        if not self._answers.are_whole:
            return
        said, choice = (
            self._answers.said,
            ChunkChoice(delta=Delta(), finish_reason=self._answers.finish_reason),
        )
        yield Message(None, ChatChunk(**self._head, choices=[choice], **said))
        if self._tells_usage:
            yield Message(None, ChatChunk(**self._head, choices=[], usage=self._answers.usage))
        yield Message(None, "[DONE]")

    def _words(self, text: str) -> Iterator[Message]:
        if text:
            yield self._chunk(Delta(content=text))

    def _chunk(self, delta: Delta) -> Message:
        return Message(None, ChatChunk(**self._head, choices=[ChunkChoice(delta=delta)]))
