"""Sizes of the OmniGen2 transformer, under the names of its published config file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from model.errors import BadCheckpoint
from model.fields import read_fields
from model.qwen_vl.config import QwenVLConfig

TIME_CHANNELS = 256
MAX_TIME_WIDTH = 1024
MAX_REFERENCES = 5
LATENT_STRIDE = 8
QK_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class OmniGen2Config:
    """The transformer's shape; the defaults are the released checkpoint's.

    Attributes:
        out_channels: None means in_channels.
        multiple_of: The feed-forward width is rounded up to a multiple of this.
        ffn_dim_multiplier: Stretches the feed-forward width before the rounding.
        axes_dim_rope: Channels that each position axis rotates; they sum to the head dim.
        axes_lens: Positions the model was made for, per axis.
        learned_positions: Adds learned row and column embeddings to image tokens; for small models.
        max_learned_positions: Rows of each of the two tables.
    """

    patch_size: int = 2
    in_channels: int = 16
    out_channels: int | None = None
    hidden_size: int = 2520
    num_layers: int = 32
    num_refiner_layers: int = 2
    num_attention_heads: int = 21
    num_kv_heads: int = 7
    multiple_of: int = 256
    ffn_dim_multiplier: float | None = None
    norm_eps: float = 1e-5
    axes_dim_rope: tuple[int, ...] = (40, 40, 40)
    axes_lens: tuple[int, ...] = (1024, 1664, 1664)
    text_feat_dim: int = 2048
    timestep_scale: float = 1000.0
    rope_theta: float = 1e4
    learned_positions: bool = False
    max_learned_positions: int = 64

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "OmniGen2Config":
        """Read a config file's content.

        Raises:
            BadCheckpoint: Lists every unknown field and every value that does not fit.
        """
        values, problems = read_fields(cls, data, "generation")
        config = cls(**values)
        problems += config.problems()
        if problems:
            raise BadCheckpoint("; ".join(problems))
        return config

    def problems(self) -> list[str]:
        """Say what does not fit together, a sentence each."""
        checks = {
            f"generation.hidden_size {self.hidden_size} must be a multiple of its {self.num_attention_heads} "
            "heads": self.hidden_size % self.num_attention_heads == 0,
            f"generation.num_attention_heads {self.num_attention_heads} must be a multiple of num_kv_heads "
            f"{self.num_kv_heads}": self.num_attention_heads % self.num_kv_heads == 0,
            f"generation.axes_dim_rope {list(self.axes_dim_rope)} must be three even numbers that sum to the "
            f"head dim {self.head_dim}": len(self.axes_dim_rope) == 3
            and not any(dim % 2 for dim in self.axes_dim_rope)
            and sum(self.axes_dim_rope) == self.head_dim,
            "generation.axes_lens must be three numbers": len(self.axes_lens) == 3,
        }
        return [problem for problem, holds in checks.items() if not holds]

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_width(self) -> int:
        """Channels of all key heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def time_width(self) -> int:
        """Channels of the time embedding."""
        return min(self.hidden_size, MAX_TIME_WIDTH)

    @property
    def ffn_width(self) -> int:
        """Inner channels of the feed-forward layers: 4h, stretched, rounded up."""
        inner = 4 * self.hidden_size
        if self.ffn_dim_multiplier is not None:
            inner = int(inner * self.ffn_dim_multiplier)
        return -(-inner // self.multiple_of) * self.multiple_of

    @property
    def patch_channels(self) -> int:
        """Values of one input patch."""
        return self.patch_size**2 * self.in_channels

    @property
    def patch_channels_out(self) -> int:
        """Values of one output patch."""
        return self.patch_size**2 * (self.out_channels or self.in_channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What the checkpoint's scheduler was told.

    Attributes:
        num_train_timesteps: Read and not used: times are between 0 and 1.
        dynamic_time_shift: Whether the time grid is shifted by the size of the picture.
    """

    num_train_timesteps: int = 1000
    dynamic_time_shift: bool = True

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SchedulerConfig":
        """Read a config file's content; keys that begin with an underscore are passed over.

        Raises:
            BadCheckpoint: Lists every unknown field and every value that does not fit.
        """
        named = {key: value for key, value in data.items() if key[0] != "_"}
        values, problems = read_fields(cls, named, "scheduler")
        if problems:
            raise BadCheckpoint("; ".join(problems))
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class OmniGen2CheckpointConfig:
    """A whole checkpoint: the configs of its parts, as their folders hold them.

    Attributes:
        transformer: The diffusion transformer.
        vae: Keyword arguments of diffusers' AutoencoderKL; None means that latents go in and come out.
        mllm: The language model that makes text features; None means that they are given.
        scheduler: How times are spread between noise and picture.
    """

    transformer: OmniGen2Config
    vae: Mapping[str, Any] | None = field(default=None, hash=False)
    mllm: QwenVLConfig | None = None
    scheduler: SchedulerConfig = SchedulerConfig()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "OmniGen2CheckpointConfig":
        """Read the parts' configs; keys that begin with an underscore and "family" are passed over.

        Raises:
            BadCheckpoint: Lists every part that is unknown, and what is wrong with the first that is.
        """
        parts = {name: part for name, part in data.items() if name[0] != "_" and name != "family"}
        if unknown := sorted(parts.keys() - {"transformer", "vae", "mllm", "scheduler"}):
            raise BadCheckpoint(f"parts {', '.join(unknown)} are unknown")
        if "transformer" not in parts:
            raise BadCheckpoint("the part transformer, with a config, is missing")
        transformer = {key: value for key, value in parts["transformer"].items() if key[0] != "_"}
        mllm = parts.get("mllm")
        config = cls(
            transformer=OmniGen2Config.from_dict(transformer),
            vae=parts.get("vae"),
            mllm=None if mllm is None else QwenVLConfig.from_dict(mllm),
            scheduler=SchedulerConfig.from_dict(parts.get("scheduler") or {}),
        )
        if config.mllm is not None and config.mllm.hidden_size != config.transformer.text_feat_dim:
            raise BadCheckpoint(f"mllm.hidden_size must be text_feat_dim {config.transformer.text_feat_dim}")
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that from_dict reads."""
        return asdict(self)
