"""What an operator may set, read from the environment once and passed by hand; the only reader of it."""

from pathlib import Path
from typing import Literal, Self

import platformdirs
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.allowance import QUOTAS_FORM, RATE_FORM

SECRETS = Path("/run/secrets")
"""Where Docker and Kubernetes put secrets, as files."""


class Settings(BaseSettings):
    """How the service runs; every field is HBRIDGE_<NAME> in the environment.

    Those that are not there may be files of SECRETS, named hbridge_<name>.
    """

    model_config = SettingsConfigDict(
        env_prefix="HBRIDGE_",
        frozen=True,
        env_ignore_empty=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        "hbridge-tiny",
        description="Checkpoint folder, short name of a shipped one, or a Hugging Face id at a commit.",
    )
    load_format: Literal["auto", "random"] = Field(
        "auto", description="Weights from the checkpoint, or random ones of its config to measure speed."
    )
    weights_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 that the weights must have, as `hbridge fetch` prints it; others are refused.",
    )
    device: str = Field(
        "cpu", pattern=r"^(cpu|mps|cuda(:\d+)?)$", description="PyTorch device, such as cpu or cuda:0."
    )
    devices: int = Field(
        1,
        ge=1,
        description="How many devices, from that one on, share each step; each holds the whole model.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type of the weights in memory."
    )
    quantization: Literal["none", "int8", "fp8"] = Field(
        "none",
        description="Weights in fewer bits, which changes results: int8 weights, or fp8 weights and tokens "
        "(a GPU of compute capability 8.9 or more, bfloat16).",
    )
    offload: Literal["none", "layers"] = Field(
        "none",
        description="Whether weights stay in the host's memory, from where each layer visits the device for "
        "its call: for cards that cannot hold them. Results are the same.",
    )
    attention: Literal["auto", "sdpa", "plain", "cudnn", "varlen", "xformers", "triton"] = Field(
        "auto", description="Attention backend; on CUDA auto takes the fastest that is right, measured."
    )
    compile: Literal["off", "graphs", "on"] = Field(
        "off",
        description="Whether steps run at fixed sizes prepared at the start: captured as CUDA graphs, or "
        "compiled and captured.",
    )
    compile_tokens: int | None = Field(
        None,
        ge=1,
        description="Largest packed step that is prepared, in tokens; longer ones run as they are. An edit "
        "of the default size with all its branches when left out.",
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
        description="Where what must outlive the server is kept: keys, usage, jobs and their pictures.",
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
    store_url: str | None = Field(
        None,
        description="Where the pictures of jobs and links are kept, as s3://bucket/folder or a path; a "
        "folder in the data folder when left out.",
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where clients reach the server, for links; where a request came to when left out.",
    )
    link_seconds: int = Field(3600, ge=1, description="How long a link to a picture is valid.")
    link_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="What links are signed with, the same for all servers of a database; kept in the data "
        "folder when left out.",
    )
    retention_seconds: float = Field(
        24 * 3600.0,
        gt=0,
        description="How long a job, its pictures and its idempotency key are kept after its end.",
    )
    max_queued_jobs: int = Field(
        1000, ge=1, description="Jobs that may wait in the database; more are refused with 429."
    )
    max_job_attempts: int = Field(
        3, ge=1, description="How often a job is begun that is cut off each time; then it fails."
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description='What webhooks without a secret are signed with: "whsec_" and 24 to 64 bytes in base64.',
    )
    max_webhook_attempts: int = Field(8, ge=1, description="Tries to deliver a webhook.")
    webhook_pause_seconds: float = Field(
        5.0, gt=0, description="After the first try of a webhook; four times as long after each other."
    )
    allow_private_webhooks: bool = Field(
        False, description="Whether webhooks may go to http addresses and into private networks."
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
    provenance: Literal["on", "off"] = Field(
        "on", description="Whether pictures are signed and marked as made by AI; receipts say so when not."
    )
    signing_key: Path | None = Field(
        None,
        description="Private key (PEM) that signs pictures; a development key is made when left out.",
    )
    signing_certificate: Path | None = Field(
        None, description="Its certificate (PEM), then those of its issuers, up to the one to trust."
    )
    trust_anchors: Path | None = Field(
        None,
        description="Certificates (PEM) whose signatures are trusted beside our own, such as a trust list.",
    )
    timestamp_url: str | None = Field(
        None, pattern=r"^https?://", description="RFC 3161 authority asked for the time of each signature."
    )
    watermark: bool = Field(True, description="Whether pictures also get an invisible mark.")
    provenance_prompt: bool = Field(False, description="Whether the signed statement includes the prompt.")
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

    @field_validator("webhook_secret")
    @classmethod
    def _check_webhook_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret:
            from service.webhooks import check_secret  # noqa: PLC0415 - the database's libraries take long

            check_secret(secret.get_secret_value())
        return secret

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        if self.devices > 1 and self.engine == "inline":
            raise ValueError("several devices need the engine in a process of its own: set engine to process")
        return self

    @property
    def database(self) -> str:
        """The address of the database."""
        if self.database_url:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'hbridge.db'}"

    @property
    def store(self) -> str:
        """The address of the store of pictures."""
        return self.store_url or str(self.data_dir / "files")
