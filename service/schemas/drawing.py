"""Requests for pictures, and how they become a drawing."""

import re
from typing import Annotated, Literal

from PIL.Image import Image
from pydantic import ConfigDict, Field

from model.drawing import Drawing
from model.errors import BadRequest, UnsupportedSize
from model.family import Capabilities, Size
from model.flow import MAX_STEPS
from service.schemas.body import Body, Encoded, OneOrMore

Solver = Literal["euler", "dpmpp_2m"]
OutputFormat = Literal["png", "jpeg", "webp"]
ResponseFormat = Literal["b64_json", "url", "binary"]
MAX_N = 8
MAX_PARTIAL_IMAGES = 3
Scale = Annotated[float, Field(ge=1, le=100)]
Interval = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)]


class DrawingOptions(Body):
    """How pictures are to be made."""

    negative_prompt: str = Field("", description="What to lean away from.")
    size: str | None = Field(
        None, description='"WxH" in pixels, such as "64x64"; see /v1/capabilities.', examples=["64x64"]
    )
    width: int | None = Field(None, ge=1, description="In pixels, with height; instead of size.")
    height: int | None = Field(None, ge=1, description="In pixels, with width; instead of size.")
    num_inference_steps: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="The model's default when left out."
    )
    guidance_scale: Scale | None = Field(None, description="1 is off; the model's default when left out.")
    image_guidance_scale: Scale | None = Field(
        None,
        description="How closely an edit keeps to its images; 1 is off; the model's default when left out.",
    )
    guidance_interval: Interval | None = Field(None, description="[low, high]: where guidance works, 0 to 1.")
    guidance_rescale: float | None = Field(
        None,
        ge=0,
        le=1,
        description="How far guided steps are brought back to the unguided spread; the model's default when "
        "left out.",
    )
    solver: Solver = Field("euler", description="How to walk from noise to picture.")
    acceleration: Literal["exact"] = Field("exact", description="No step is skipped.")
    output_format: OutputFormat = Field("png", description="The file's format.")
    output_compression: int | None = Field(None, ge=0, le=100, description="Quality of jpeg and webp.")


class DrawingBody(DrawingOptions):
    """What generate and edit both take."""

    prompt: str = Field(min_length=1, description="What to draw, or the instruction of an edit.")
    n: int = Field(1, ge=1, le=MAX_N, description="Pictures from one reading of the prompt.")
    response_format: ResponseFormat = Field(
        "b64_json",
        description='"url": links that are valid for a while; "binary": the body is the one picture\'s file.',
    )
    partial_images: int = Field(
        0,
        ge=0,
        le=MAX_PARTIAL_IMAGES,
        description="Rough looks at a picture in the making, in a stream; fewer if there are fewer steps.",
    )


class GenerateRequest(DrawingBody):
    """Words to pictures."""


class EditRequest(DrawingBody):
    """Pictures and an instruction to pictures."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["image"]}, {"required": ["images"]}]}
    )

    image: OneOrMore | None = Field(None, description="The picture to edit, or several; this or images.")
    images: OneOrMore | None = Field(None, description="The pictures to edit, in the order the prompt means.")
    mask: Encoded | None = Field(
        None,
        description="A PNG as large as the first image, which may change where this is wholly transparent, "
        "or white if it has no transparency; every other pixel comes back as it was.",
    )


def check_drawing(asked: DrawingBody, can: Capabilities) -> None:
    """Refuse fields that contradict each other, before any image is opened.

    Raises:
        BadRequest: Says which field to change.
    """
    scale = asked.image_guidance_scale or 1
    if scale > 1 and not isinstance(asked, EditRequest):
        raise BadRequest(
            "image_guidance_scale needs an image; leave it out or use /v1/edit", param="image_guidance_scale"
        )
    if scale > 1 and (asked.guidance_scale or can.edit_guidance_scale) <= 1:
        raise BadRequest(
            "image_guidance_scale works only while guidance_scale is above 1", param="image_guidance_scale"
        )
    if asked.solver not in can.solvers:
        raise BadRequest(f"solver {asked.solver!r} must be one of {', '.join(can.solvers)}", param="solver")
    if asked.output_format == "png" and asked.output_compression is not None:
        raise BadRequest(
            "output_compression is for jpeg and webp; png loses nothing", param="output_compression"
        )
    if asked.partial_images and not asked.stream:
        raise BadRequest("partial images come in a stream; ask for stream true", param="partial_images")
    if asked.response_format != "b64_json" and asked.stream:
        raise BadRequest("a stream holds its pictures; ask for b64_json", param="response_format")
    if asked.response_format == "binary" and asked.n > 1:
        raise BadRequest(
            "a binary answer holds one picture; ask for n 1 or b64_json", param="response_format"
        )
    if asked.response_format == "binary" and asked.metadata:
        raise BadRequest(
            "a binary answer cannot echo metadata; leave it out or ask for b64_json", param="metadata"
        )


def to_drawing(asked: DrawingBody, images: tuple[Image, ...] = (), mask: Image | None = None) -> Drawing:
    """Put a checked request in the pipeline's words.

    Args:
        images: All that an edit brings, opened, in order.
        mask: Of an edit, as Drawing has it.

    Raises:
        UnsupportedSize: The size is no size.
        BadRequest: The size is given twice, or by half.
    """
    return Drawing(
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        images=images,
        mask=mask,
        size=chosen_size(asked),
        n=asked.n,
        seed=asked.seed,
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        image_guidance_scale=asked.image_guidance_scale,
        guidance_interval=(asked.guidance_interval[0], asked.guidance_interval[1])
        if asked.guidance_interval
        else None,
        guidance_rescale=asked.guidance_rescale,
        solver=asked.solver,
    )


def chosen_size(asked: DrawingBody) -> Size | None:
    """Read size, or width and height; None leaves it to the model. Raises as to_drawing."""
    sides = {"width": asked.width, "height": asked.height}
    given = [name for name, side in sides.items() if side is not None]
    if asked.size is not None and given:
        raise BadRequest(f"size and {given[0]} say the same; give one of them", param=given[0])
    if len(given) == 1:
        missing = "height" if given == ["width"] else "width"
        raise BadRequest(f"{given[0]} needs {missing} as well", param=missing)
    if asked.width is not None and asked.height is not None:
        return Size(asked.width, asked.height)
    return None if asked.size is None else read_size(asked.size, is_edit=isinstance(asked, EditRequest))


def read_size(text: str, *, is_edit: bool) -> Size | None:
    """Read "WxH"; "auto", in an edit, leaves it to the model.

    Raises:
        UnsupportedSize: It is neither.
    """
    if text == "auto" and is_edit:
        return None
    if not (match := re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)):
        auto = ', or "auto"' if is_edit else ""
        raise UnsupportedSize(f'size {text[:40]!r} must be "WIDTHxHEIGHT" in pixels{auto}', param="size")
    return Size(int(match[1]), int(match[2]))
