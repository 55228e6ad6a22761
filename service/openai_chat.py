"""Chats of the OpenAI API as requests of ours.

A conversation is answered in words as `/v1/understand` does; a picture is made from its last message as
`/v1/generate` does, or, of the images in it, as `/v1/edit` does. Both may be asked for at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from model.errors import BadRequest
from model.request import chosen_seed
from service.deps import Service
from service.engine.job import Job
from service.errors import RequestError
from service.schemas.body import Body
from service.schemas.drawing import DrawingBody, DrawingOptions, EditRequest, GenerateRequest
from service.schemas.openai_chat import ChatMessage, ChatRequest
from service.schemas.question import AnswerOptions, Message, TextPart, UnderstandRequest, check_question
from service.tasks import task_of, to_job
from service.tenant import Tenant

PICTURE_OPTIONS = DrawingOptions.model_fields.keys() - Body.model_fields.keys()
WORD_OPTIONS = AnswerOptions.model_fields.keys() - Body.model_fields.keys()
NAMES = {"prompt": "messages", "image": "messages", "images": "messages"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation on its way.

    Attributes:
        parts: Jobs that answer it, each with its request in our words; that of words first.
    """

    id: str
    asked: ChatRequest
    parts: tuple[tuple[Job, Body], ...]

    @property
    def jobs(self) -> list[Job]:
        """What the engine has to do for it."""
        return [job for job, _ in self.parts]


async def to_chat(service: Service, asked: ChatRequest, request_id: str, tenant: Tenant) -> Chat:
    """Put a chat in our words, and let its tenant ask for them; raises as to_job and Service.admit."""
    bodies = to_bodies(asked)
    await service.admit(tenant, *(task_of(body) for body in bodies))
    ids = (request_id, f"{request_id}-picture")
    with named(asked):
        parts = [
            (await to_job(service, body, each, tenant), body) for body, each in zip(bodies, ids, strict=False)
        ]
    return Chat(id=request_id, asked=asked, parts=tuple(parts))


def to_bodies(asked: ChatRequest) -> list[Body]:
    """Return the requests that answer a chat, that for words first.

    Raises:
        BadRequest: It cannot be answered; says which field to change.
    """
    check_options(asked)
    seed = chosen_seed(asked.seed)
    question = to_understand(asked, seed)
    check_question(question)
    bodies: list[Body] = [question] if "text" in asked.modalities else []
    if "image" in asked.modalities:
        bodies.append(to_picture(asked, seed))
    return bodies


@contextmanager
def named(asked: ChatRequest) -> Iterator[None]:
    """Name the field that is wrong as the chat has it."""
    names = NAMES | ({"max_tokens": "max_completion_tokens"} if asked.max_completion_tokens else {})
    try:
        yield
    except (RequestError, BadRequest) as error:
        error.param = names.get((error.param or "").partition(".")[0], error.param)
        raise


def check_options(asked: ChatRequest) -> None:
    """Refuse options of what is not asked for.

    Raises:
        BadRequest: Says which field to change.
    """
    limits = {asked.max_tokens, asked.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise BadRequest("max_tokens says the same; give one of them", param="max_completion_tokens")
    if asked.stream_options and not asked.stream:
        raise BadRequest("stream_options are for a stream; ask for stream true", param="stream_options")
    given = asked.model_fields_set
    for kind, options in (("image", PICTURE_OPTIONS), ("text", WORD_OPTIONS | {"max_completion_tokens"})):
        if kind not in asked.modalities and (name := min(options & given, default=None)):
            raise BadRequest(f'{name} needs "{kind}" in modalities', param=name)


def to_understand(asked: ChatRequest, seed: int) -> UnderstandRequest:
    """Ask for words.

    Raises:
        BadRequest: A message is empty, or has images where it cannot.
    """
    return UnderstandRequest(
        messages=[_turn(index, message) for index, message in enumerate(asked.messages)],
        max_tokens=asked.max_tokens or asked.max_completion_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        stop=asked.stop,
        **_shared(asked, seed),
    )


def to_picture(asked: ChatRequest, seed: int) -> DrawingBody:
    """Ask for a picture from the last message, or of the images in it.

    Raises:
        BadRequest: It has no words.
    """
    last = asked.messages[-1].content or []
    words = "\n".join(part.text for part in last if isinstance(part, TextPart))
    if not words:
        raise BadRequest(
            "say in the last message what to draw", param=f"messages.{len(asked.messages) - 1}.content"
        )
    options = {name: getattr(asked, name) for name in PICTURE_OPTIONS & asked.model_fields_set}
    given = options | _shared(asked, seed)
    if images := [part.image_url.url for part in last if not isinstance(part, TextPart)]:
        return EditRequest(prompt=words, images=images, **given)
    return GenerateRequest(prompt=words, **given)


def _shared(asked: ChatRequest, seed: int) -> dict[str, Any]:
    names = ("model", "priority", "deadline_ms")
    return {"seed": seed} | {name: getattr(asked, name) for name in names}


def _turn(index: int, message: ChatMessage) -> Message:
    if message.images and message.role != "assistant":
        raise BadRequest("put images into content", param=f"messages.{index}.images")
    content = [*(message.content or []), *message.images]
    if not content:
        raise BadRequest("a message needs content", param=f"messages.{index}.content")
    return Message(role="system" if message.role == "developer" else message.role, content=content)
