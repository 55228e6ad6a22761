"""What an operator may set, read from the environment once and passed by hand; the only reader of it."""

from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.allowance import QUOTAS_FORM, RATE_FORM


class Settings(BaseSettings):
    """How the service runs; every field is HBRIDGE_<NAME> in the environment."""

    model_config = SettingsConfigDict(env_prefix="HBRIDGE_", frozen=True, env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        "hbridge-tiny",
        description="Checkpoint folder, short name of a shipped one, or a Hugging Face id at a commit.",
    )
    load_format: Literal["auto", "random"] = Field(
        "auto", description="Weights from the checkpoint, or random ones of its config to measure speed."
    )
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
    max_image_bytes: int = Field(
        24 * 2**20, ge=1, description="Most bytes of an image file that comes in, sent or fetched."
    )
    fetch_images: bool = Field(
        False, description="Whether a request may name an image by its https address, which is then fetched."
    )
    fetch_http: bool = Field(False, description="Whether http addresses are fetched too.")
    fetch_hosts: frozenset[str] = Field(
        frozenset(), description="The only hosts that images are fetched from; any public one when left out."
    )
    fetch_ports: frozenset[int] = Field(
        frozenset(), description="Ports that images are fetched from beside 443, and 80 of http addresses."
    )
    max_fetch_redirects: int = Field(3, ge=0, description="Most redirects of one fetch.")
    max_fetch_seconds: float = Field(
        10.0, gt=0, description="How long one fetch may take, from waiting for its turn to the last byte."
    )
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
    data_dir: Path = Field(
        platformdirs.user_data_path("hbridge"),
        description="Where what must outlive the server is kept: the database with keys and usage.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="As postgresql://user:password@host/name; SQLite in the data folder when left out.",
    )
    limits_storage_url: SecretStr = Field(
        SecretStr("memory://"),
        description="Where requests are counted: memory://, or redis://:password@host that servers share.",
    )
    default_rate: str | None = Field(
        None,
        pattern=f"^({RATE_FORM})$",
        description="Requests for work of a tenant that has no rate of its own, such as 60/minute.",
    )
    default_quotas: str | None = Field(
        None,
        pattern=f"^({QUOTAS_FORM})$",
        description="Device-seconds of a tenant that has no quotas of its own, such as 3600/day 50000/month.",
    )
    bootstrap_key_file: Path | None = Field(
        None, description="File with a key, hb-ID-SECRET, that has the scope admin from the start."
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses and networks, with commas, of proxies whose X-Forwarded-For is believed.",
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

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url and not url.get_secret_value().startswith(("sqlite:///", "postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql:// or sqlite:///")
        return url

    @field_validator("limits_storage_url")
    @classmethod
    def _check_limits_storage_url(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("memory://", "redis://", "rediss://")):
            raise ValueError("must be memory:// or begin with redis:// or rediss://")
        return url

    @property
    def database(self) -> str:
        """The address of the database."""
        if self.database_url:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'hbridge.db'}"
