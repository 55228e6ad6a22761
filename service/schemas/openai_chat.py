"""The OpenAI API's chats: its fields, ours beside them; and how it answers.

Of its fields that ask for what is not done here, only the value that asks for nothing is taken.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from service.schemas.answers import Answer, Receipt
from service.schemas.body import EndUserBody, Part
from service.schemas.drawing import DrawingOptions
from service.schemas.openai_images import AsTheModelLikes, TokenDetails
from service.schemas.question import AnswerOptions, Content, ImagePart


def is_none(value: object) -> bool:
    """Say whether there is nothing to tell."""
    return value is None


Zero = Annotated[float, Field(ge=0, le=0)]
Nothing = Annotated[list[Any], Field(max_length=0)]
Modalities = Annotated[list[Literal["text", "image"]], Field(min_length=1, max_length=2)]


class PictureIn(ImagePart):
    """A picture of an assistant's message, as it was answered."""

    index: int = 0


class ChatMessage(Part):
    """One turn of a conversation, also as it was answered."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    images: list[PictureIn] = Field(default_factory=list, description="Of an assistant's message.")
    refusal: None = None
    tool_calls: Nothing = Field(default_factory=list)
    annotations: Nothing = Field(default_factory=list)


class StreamOptions(Part):
    """What a stream tells beside the words."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextFormat(Part):
    """The only form of an answer: words."""

    type: Literal["text"]


class ChatRequest(EndUserBody, AnswerOptions, DrawingOptions):
    """A conversation to answer in words, in a picture, or in both."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=256)]
    modalities: Modalities = Field(
        ["text"], description='"image": a picture is made from the last message, or of the images in it.'
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="The same as max_tokens.")
    stream_options: StreamOptions | None = None
    size: AsTheModelLikes = Field(None, description='Of the picture: "WxH" in pixels, or "auto".')
    n: Literal[1] = 1
    response_format: TextFormat | None = None
    frequency_penalty: Zero = 0
    presence_penalty: Zero = 0
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] = Field(default_factory=dict)
    logprobs: Literal[False] = False
    top_logprobs: Zero = 0
    store: Literal[False] = False
    service_tier: Literal["auto", "default"] = "auto"


class Address(Answer):
    """Where a picture is: a data: URL."""

    url: str


class PictureOut(Answer):
    """A picture in a message."""

    type: Literal["image_url"] = "image_url"
    index: int
    image_url: Address


class AssistantMessage(Answer):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str | None = Field(description="Null when no words were asked for.")
    refusal: None = None
    images: list[PictureOut] | None = Field(
        default=None, exclude_if=is_none, description="There when a picture was asked for."
    )


class Delta(Answer):
    """What comes next of the assistant's turn; only what there is."""

    role: Literal["assistant"] | None = Field(default=None, exclude_if=is_none)
    content: str | None = Field(default=None, exclude_if=is_none)
    images: list[PictureOut] | None = Field(default=None, exclude_if=is_none)


class Choice(Answer):
    """The answer."""

    index: Literal[0] = 0
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChunkChoice(Answer):
    """A piece of the answer."""

    index: Literal[0] = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: None = None


class PromptDetails(TokenDetails):
    """Tokens of the prompt by their kind."""

    cached_tokens: int = Field(description="Read before and kept.")


class ChatUsage(Answer):
    """What an answer took, in the OpenAI API's words; with words and a picture, what both took."""

    prompt_tokens: int
    completion_tokens: int = Field(description="Of words, and latent patches of a picture.")
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: TokenDetails


class ChatCompletion(Answer):
    """An answer to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    system_fingerprint: str
    seed: int
    metadata: dict[str, str]
    warnings: list[str]
    receipt: Receipt | None = Field(description="Of the picture.")


class ChatChunk(Answer):
    """A piece of an answer; what the whole says beside the message is in the last that has a choice."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    usage: ChatUsage | None = Field(
        default=None, exclude_if=is_none, description="In the last chunk, if it was asked for."
    )
    seed: int | None = Field(default=None, exclude_if=is_none)
    metadata: dict[str, str] | None = Field(default=None, exclude_if=is_none)
    warnings: list[str] | None = Field(default=None, exclude_if=is_none)
    receipt: Receipt | None = Field(default=None, exclude_if=is_none)
