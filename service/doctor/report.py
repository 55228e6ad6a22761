"""What the doctor found, in the form of `hbridge doctor --json`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.engine.cost import Stage

Checkpoint = Literal["found", "configs only", "missing", "broken"]


class Finding(BaseModel):
    """Any object of a report."""

    model_config = ConfigDict(frozen=True)


class Extra(Finding):
    """An optional library."""

    library: str
    extra: str = Field(description="What to install: hbridge[extra].")
    gives: str
    is_installed: bool


class Machine(Finding):
    """The device, and what is installed beside it."""

    device: str
    hardware: str
    is_usable: bool
    capability: str | None = Field(description="CUDA compute capability.")
    memory_bytes: int
    free_bytes: int
    host_free_bytes: int
    torch: str
    cuda: str | None = Field(description="The version that PyTorch was built with.")
    attention_backends: dict[str, str] = Field(description='"runs", or what is wrong with it.')
    extras: list[Extra]


class Speed(Finding):
    """What the device did at most in a moment, in the type of the weights."""

    matmul_flops_per_second: float
    copy_bytes_per_second: float
    host_copy_bytes_per_second: float | None = Field(
        description="From the host's memory to the device; null on a processor."
    )


class Part(Finding):
    """A part of the model."""

    name: str
    weights: int
    num_bytes: int


class Model(Finding):
    """A checkpoint, and what it takes before the first request."""

    model: str
    checkpoint: Checkpoint
    problems: list[str]
    dtype: str
    quantization: str
    offload: str
    parts: list[Part]
    weights_bytes: int
    device_bytes: int = Field(description="Of the weights, what the device holds at its peak.")
    loading_bytes: int = Field(description="What reading the weights takes of the host's memory at its peak.")
    token_bytes: int = Field(description="Of a context, for each token of a prompt.")
    image_tokens: int = Field(description="Of an image of the default size in a prompt.")
    image_bytes: int = Field(description="Of a context and an encoded reference, for each such image.")


class Case(Finding):
    """One kind of request."""

    task: Literal["generate", "edit"]
    size: str
    context_bytes: int = Field(description="Of all prompts of one picture's guidance branches.")
    peak_bytes: dict[Stage, int] = Field(description="Of each stage with one picture, margin included.")
    more_bytes: dict[Stage, int] = Field(description="Of each stage, for each further picture.")
    needed_bytes: dict[int, int] = Field(description="Beside the weights, by number of pictures.")
    fits: dict[int, bool] = Field(description="By number of pictures.")
    at_once: int = Field(description="How many pictures fit at once.")
    flops: dict[Stage, int] = Field(description="Of each stage with one picture; denoise is one step.")
    expected_seconds: dict[Stage, float] = Field(
        description="As flops, were all of it at the measured matmul rate: no call is faster."
    )
    picture_seconds: float = Field(description="Prefill, all steps, decode.")


class Measured(Finding):
    """A real step, beside what was expected."""

    task: Literal["generate", "edit"]
    size: str
    step_seconds: float
    expected_seconds: float
    matmul_share: float = Field(description="Of the measured matmul rate, what the step reached.")


class Report(Finding):
    """Everything, and whether the model can be served."""

    format: Literal["hbridge-doctor-1"] = "hbridge-doctor-1"
    machine: Machine
    model: Model | None = Field(description="Null when the checkpoint's configs are not there.")
    speed: Speed | None
    cases: list[Case]
    measured: Measured | None
    can_serve: bool
    reasons: list[str] = Field(description="Why not.")
    advice: list[str]
