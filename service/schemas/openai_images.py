"""The OpenAI API's requests for pictures: its fields, ours beside them; and how it answers.

Of its fields that ask for what is not ours to choose, such as quality, only the value that leaves it open is
taken.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from service.schemas.answers import Answer, ImagesAnswer, Receipt, TimingsData, is_none
from service.schemas.body import EndUserBody
from service.schemas.drawing import EditRequest, GenerateRequest, OutputFormat

TextOrUrl = Annotated[
    Literal["b64_json", "url"], Field(description='"url": where the server keeps pictures.')
]
AsTheModelLikes = Annotated[str | None, BeforeValidator(lambda size: None if size == "auto" else size)]


class ImagesBody(EndUserBody):
    """What the OpenAI API adds to requests for pictures."""

    quality: Literal["auto"] = Field("auto", description="num_inference_steps is what there is to choose.")
    background: Literal["auto", "opaque"] = Field("auto", description="Pictures are opaque.")


class ImagesGenerationsRequest(ImagesBody, GenerateRequest):
    """Words to pictures, as the OpenAI API asks; fields of ours may come along."""

    response_format: TextOrUrl = "b64_json"
    size: AsTheModelLikes = Field(None, description='"WxH" in pixels, or "auto"; see /v1/capabilities.')
    moderation: Literal["auto"] = Field("auto", description="As the server has it.")


class ImagesEditsRequest(ImagesBody, EditRequest):
    """Pictures and an instruction to pictures, as the OpenAI API asks; fields of ours may come along."""

    response_format: TextOrUrl = "b64_json"


class TokenDetails(Answer):
    """Tokens by their kind."""

    image_tokens: int
    text_tokens: int


class ImagesUsage(Answer):
    """What pictures took, in the OpenAI API's words."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int = Field(description="Latent patches.")
    output_tokens_details: TokenDetails
    total_tokens: int


class ImagesDatum(Answer):
    """One picture."""

    b64_json: str | None = Field(default=None, exclude_if=is_none)
    url: str | None = Field(default=None, exclude_if=is_none)
    seed: int


class Look(Answer):
    """What a picture is like, in the OpenAI API's words."""

    size: str
    output_format: OutputFormat
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"


class ImagesResponse(Look):
    """Pictures, and beside them what the native answer says."""

    created: int
    data: list[ImagesDatum]
    usage: ImagesUsage
    safety_identifier: str | None
    id: str
    model: str
    metadata: dict[str, str]
    warnings: list[str]
    timings: TimingsData
    receipt: Receipt


class PartialImage(Look):
    """A rough look at a picture in the making."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    b64_json: str
    partial_image_index: int = Field(description="Counts from 0, for each picture.")
    image_index: int = Field(description="Which of n pictures.")
    created_at: int


class CompletedImage(Look):
    """A picture; each of n comes in an event of its own."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    b64_json: str
    image_index: int = Field(description="Which of n pictures.")
    seed: int
    created_at: int
    usage: ImagesUsage = Field(description="Of this picture; reading the prompt is counted with the first.")
    safety_identifier: str | None


def usage_of(answer: ImagesAnswer, *, index: int | None = None) -> ImagesUsage:
    """Return what all pictures took, or one of them: then reading the prompt counts with the first."""
    usage = answer.usage
    read = not index
    made = usage.image_tokens if index is None else usage.image_tokens // len(answer.images)
    total, images = (usage.prompt_tokens, usage.prompt_image_tokens) if read else (0, 0)
    return ImagesUsage(
        input_tokens=total,
        input_tokens_details=TokenDetails(image_tokens=images, text_tokens=total - images),
        output_tokens=made,
        output_tokens_details=TokenDetails(image_tokens=made, text_tokens=0),
        total_tokens=total + made,
    )
