"""Requests for words about pictures, and how they become a question."""

from collections.abc import Iterator
from typing import Annotated, Literal

from PIL.Image import Image
from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from model.errors import BadRequest
from model.prompt import Turn
from model.question import Question
from service.schemas.body import Body, Encoded, OneOrMore, Part, as_list


def _as_parts(value: object) -> object:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class TextPart(Part):
    """Words of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(Part):
    """Where a message's image is."""

    url: Encoded
    detail: Literal["auto"] = "auto"


class ImagePart(Part):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Content = Annotated[
    list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
    BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart | ImagePart]),
    Field(min_length=1),
]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]
WORD_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 200}
Stop = Annotated[
    list[Word],
    BeforeValidator(as_list),
    Field(max_length=4),
    WithJsonSchema({"anyOf": [WORD_SCHEMA, {"type": "array", "items": WORD_SCHEMA, "maxItems": 4}]}),
]


class Message(Part):
    """One turn of a conversation, in the OpenAI API's form."""

    role: Literal["system", "user", "assistant"]
    content: Content

    @property
    def images(self) -> list[str | bytes]:
        """Its images as they came."""
        return [part.image_url.url for part in self.content if isinstance(part, ImagePart)]


class AnswerOptions(Body):
    """How words are to be chosen."""

    max_tokens: int | None = Field(
        None, ge=1, description="Most tokens of the answer; the default in /v1/capabilities when left out."
    )
    temperature: float = Field(0.0, ge=0, le=2, description="0 takes the likeliest word every time.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the likeliest words that hold this share.")
    stop: Stop = Field(
        default_factory=list, description="Words that end the answer, up to 4; not part of it."
    )


class UnderstandRequest(AnswerOptions):
    """A question about pictures, or a conversation that ends in one."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}]}
    )

    prompt: str | None = Field(None, min_length=1, description="The question; this or messages.")
    messages: Annotated[list[Message], Field(min_length=1, max_length=256)] | None = Field(
        None, description="OpenAI chat messages, several turns and images; the last is the user's."
    )
    image: OneOrMore | None = Field(None, description="The picture that prompt asks about, or several.")
    images: OneOrMore | None = Field(None, description="The pictures that prompt asks about.")


def check_question(asked: UnderstandRequest) -> None:
    """Refuse fields that contradict each other, before any image is opened.

    Raises:
        BadRequest: Says which field to change.
    """
    if (asked.prompt is None) == (asked.messages is None):
        raise BadRequest("give prompt or messages, one of them", param="prompt")
    if asked.messages is None:
        return
    for name, images in (("image", asked.image), ("images", asked.images)):
        if images is not None:
            raise BadRequest(f"with messages, put images into a message instead of {name}", param=name)
    if asked.messages[-1].role != "user":
        raise BadRequest(
            "the last message must be the user's", param=f"messages.{len(asked.messages) - 1}.role"
        )
    for index, message in enumerate(asked.messages):
        if message.images and message.role == "system":
            raise BadRequest("the system's message brings no images", param=f"messages.{index}.content")
        if message.role == "system" and index:
            raise BadRequest("only the first message may be the system's", param=f"messages.{index}.role")


def to_question(asked: UnderstandRequest, images: tuple[Image, ...], *, max_tokens: int) -> Question:
    """Put a checked request in the pipeline's words.

    Args:
        images: All that the request brings, opened, in order.
        max_tokens: What to ask for when the request does not say.
    """
    opened = iter(images)
    if asked.messages is None:
        turns = [Turn("user", (*opened, asked.prompt or ""))]
    else:
        turns = [Turn(message.role, _parts(message, opened)) for message in asked.messages]
    return Question(
        turns=tuple(turns),
        max_tokens=asked.max_tokens or max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=tuple(asked.stop),
    )


def _parts(message: Message, opened: Iterator[Image]) -> tuple[str | Image, ...]:
    return tuple(part.text if isinstance(part, TextPart) else next(opened) for part in message.content)
