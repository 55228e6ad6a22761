"""What the endpoints answer."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from model.prompt import Task

Quantization = Literal["none", "int8", "fp8"]
QUANTIZATION = "How the weights were rounded, which changes results; none if they are as they were."


class Answer(BaseModel):
    """Any object of an answer."""

    model_config = ConfigDict(frozen=True)


def is_none(value: object) -> bool:
    """Say whether a field is to be left out."""
    return value is None


class ImageData(Answer):
    """One picture."""

    b64_json: str | None = Field(default=None, description="The file, in base64.", exclude_if=is_none)
    url: str | None = Field(
        default=None,
        description="Where the file is, for a while; instead of `b64_json`.",
        exclude_if=is_none,
    )
    seed: int
    width: int
    height: int
    mime_type: str


class TimingsData(Answer):
    """Seconds that each stage took."""

    queue: float
    prefill: float
    denoise: float
    decode: float
    total: float
    expected: float = Field(description="Of the total, when the request was taken in.")


class UsageData(Answer):
    """What a request took."""

    prompt_tokens: int = Field(description="Of the whole prompt, its images included.")
    prompt_image_tokens: int = Field(description="Of these, its images'.")
    cached_prompt_tokens: int = Field(description="Of these, read before and kept.")
    prefilled_tokens: int = Field(
        description="Read for this request, over all guidance branches; once, before the first step."
    )
    device_seconds: float


class DrawingUsage(UsageData):
    """What pictures took."""

    image_tokens: int = Field(description="Latent patches of all pictures.")
    steps: int = Field(description="Flow steps of a picture.")
    network_calls: int = Field(
        description="Rows that the generation network computed, all branches and steps."
    )


class AnswerUsage(UsageData):
    """What an answer took."""

    completion_tokens: int


class GuidanceData(Answer):
    """The guidance that was used."""

    text: float
    image: float
    interval: tuple[float, float]
    clock: Literal["time", "step"] = Field(description="What the interval counts.")
    rescale: float
    branches: list[str] = Field(description="What guided steps computed.")


class EnvironmentData(Answer):
    """Where the pictures were made, as far as it may show in their last bits."""

    hardware: str
    num_threads: int
    num_devices: int = Field(1, description="How many shared each step.")
    versions: dict[str, str]


class ProvenanceData(Answer):
    """What the pictures' files say of where they come from."""

    content_credentials: bool = Field(description="A signed C2PA statement is in the file.")
    watermark: bool = Field(description="An invisible mark is in the pixels.")
    reasons: list[str] = Field(description="Why something is missing.")


class Receipt(Answer):
    """What made these pictures; the same again makes the same pixels."""

    task: Task
    model: str
    family: str
    weights_sha256: str = Field(description="Over the weight files; of random weights, over config and seed.")
    load_format: Literal["auto", "random"] = Field(
        description="Whether weights are the checkpoint's or random."
    )
    quantization: Quantization = Field("none", description=QUANTIZATION)
    prompt: str
    negative_prompt: str
    seed: int = Field(description="Of the first picture; picture i has seed + i.")
    n: int
    size: str
    solver: str
    grid: str = Field(description="The time grid's name.")
    times: list[float] = Field(description="Flow time before each step, and 1 at the end.")
    guidance: GuidanceData
    acceleration: str
    attention_backend: str
    compile: Literal["off", "graphs", "on"] = Field(
        default="off", description="Whether steps ran at prepared sizes."
    )
    dtype: str
    device: str
    environment: EnvironmentData
    images_sha256: list[str] = Field(
        description="Of an edit's images, in order: SHA-256 over size and RGB pixels."
    )
    mask_sha256: str | None = Field(description="Of an edit's mask, in the same way.")
    pixels_sha256: list[str] = Field(description="Of each picture, before its watermark, in the same way.")
    provenance: ProvenanceData


class Envelope(Answer):
    """What every answer carries."""

    id: str
    created: int = Field(description="Unix seconds.")
    model: str
    metadata: dict[str, str] = Field(description="As it came.")
    warnings: list[str] = Field(description="What may make the result worse than expected.")


class ImagesAnswer(Envelope):
    """Pictures."""

    images: list[ImageData]
    usage: DrawingUsage
    timings: TimingsData
    receipt: Receipt


class TextAnswer(Envelope):
    """Words."""

    answer: str
    finish_reason: Literal["stop", "length"]
    seed: int
    usage: AnswerUsage
    timings: TimingsData


class ErrorData(Answer):
    """What went wrong and what to change."""

    message: str
    type: str
    param: str | None = Field(description="The field that is wrong, if one is.")
    code: str


class ErrorAnswer(Answer):
    """Every error has this form."""

    error: ErrorData


class ModelCard(Answer):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "hbridge"
    weights_sha256: str | None = Field(description="As in receipts; null until the model is loaded.")
    load_format: Literal["auto", "random"] = Field(
        description="Whether weights are the checkpoint's or random."
    )
    quantization: Quantization = Field(description=QUANTIZATION)


class ModelList(Answer):
    """All models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Answer):
    """Whether the service lives, or is ready."""

    status: str


class SizeLimits(Answer):
    """Which sizes a picture may have, in pixels."""

    step: int
    min_side: int
    max_side: int
    max_pixels: int


class Limits(Answer):
    """The most, or the range, that a request may ask for."""

    size: SizeLimits
    n: int
    partial_images: int
    num_inference_steps: int
    prompt_chars: int
    prompt_tokens: int
    references: int = Field(description="Images of an edit.")
    images: int = Field(description="Images of a question.")
    image_pixels: int
    max_tokens: int
    body_bytes: int
    waiting_jobs: int


class Defaults(Answer):
    """What a field is when it is left out."""

    size: str
    n: int
    num_inference_steps: int
    guidance_scale: float
    edit_guidance_scale: float
    image_guidance_scale: float
    guidance_interval: tuple[float, float]
    guidance_rescale: float
    solver: str
    output_format: str
    response_format: str
    max_tokens: int


class CapabilitiesAnswer(Answer):
    """What the loaded model can do, within which limits, and from which defaults."""

    model: str
    family: str
    tasks: list[Task]
    solvers: list[str]
    output_formats: list[str]
    response_formats: list[str]
    guidance_clock: Literal["time", "step"]
    quantization: Quantization = Field(description=QUANTIZATION)
    limits: Limits
    defaults: Defaults
    examples: dict[Task, list[str]] = Field(description="Words that the model does well with.")
