"""What an operator may set, read from the environment once and passed by hand; the only reader of it."""

from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """How the service runs; every field is HBRIDGE_<NAME> in the environment."""

    model_config = SettingsConfigDict(env_prefix="HBRIDGE_", frozen=True, env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field("hbridge-tiny", description="Checkpoint folder, or the short name of a shipped one.")
    device: str = Field(
        "cpu", pattern=r"^(cpu|mps|cuda(:\d+)?)$", description="PyTorch device, such as cpu or cuda:0."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type of the weights in memory."
    )
    num_threads: int | None = Field(None, ge=1, description="CPU threads of one operation.")
    max_waiting: int = Field(64, ge=0, description="Jobs that may wait; more are refused with 429.")
    max_body_bytes: int = Field(
        32 * 2**20, ge=1, description="Largest request body; larger is refused with 413."
    )
    max_image_pixels: int = Field(40_000_000, ge=1, description="Most pixels of an image that comes in.")
    max_prompt_chars: int = Field(4000, ge=1, description="Most characters of one prompt or message text.")
    max_tokens: int = Field(1024, ge=1, description="Most tokens of an answer that a request may ask for.")
    default_max_tokens: int = Field(
        64, ge=1, description="Most tokens of an answer when a request does not say."
    )
    engine: Literal["process", "inline"] = Field(
        "process", description="Where the engine runs: in a process of its own, or on a thread of the server."
    )
    max_load_seconds: float = Field(
        600.0, gt=0, description="How long the engine's process may load before it is started again."
    )
    max_step_seconds: float = Field(
        120.0, gt=0, description="How long one step may take before the engine's process is started again."
    )
    max_restart_pause_seconds: float = Field(
        30.0,
        ge=0,
        description="Longest pause before the engine's process is started again; it doubles to there.",
    )
    drain_seconds: float = Field(
        20.0, ge=0, description="How long a shutdown waits for jobs that are in; the rest are cut off."
    )
    max_memory_bytes: int | None = Field(
        None,
        ge=1,
        description="Memory for contexts and steps beside the weights; what is free when left out.",
    )
    playground: bool = Field(True, description="Whether the page at / is shown.")
    cache_dir: Path = Field(
        platformdirs.user_cache_path("hbridge"),
        description="Where what is learnt about this machine is kept; it may be deleted at any time.",
    )
    peak_flops: float | None = Field(
        None,
        gt=0,
        description="What the device can do at most in a second, in FLOP and in the weights' type, as its "
        "maker says; needed for the metric hbridge_mfu_ratio.",
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Collector that takes traces by OTLP over HTTP, such as http://localhost:4318; there are "
        "none when left out.",
    )
    log_format: Literal["plain", "json"] = Field(
        "plain", description="One line for people, or one JSON object."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    log_content: bool = Field(
        False,
        description="Whether logs and traces may hold prompts and the words of errors, for debugging; never "
        "images or keys.",
    )
