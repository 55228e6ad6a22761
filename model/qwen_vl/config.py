"""What a checkpoint says about its understanding expert, in our spelling or the published Qwen2.5-VL one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from model.errors import BadCheckpoint
from model.fields import read_fields

NO_TOKEN = -1
RENAMED = {"in_chans": "in_channels", "dtype": "torch_dtype"}
LIFTED = ("text_config", "rope_scaling", "rope_parameters")
FIXED: Mapping[str, tuple[Any, ...]] = {
    "attention_dropout": (0.0,),
    "hidden_act": ("silu",),
    "rope_type": ("default",),
    "type": ("mrope", "default"),
    "use_sliding_window": (False,),
}
VISION_FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "in_channels": (3,),
    "rope_theta": (10000.0,),
    "rope_type": ("axial",),
}
SILENT = frozenset(
    (
        "architectures",
        "bos_token_id",
        "initializer_range",
        "layer_types",
        "max_position_embeddings",
        "max_window_layers",
        "model_type",
        "pad_token_id",
        "sliding_window",
        "spatial_patch_size",
        "tokens_per_second",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "vision_token_id",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """The vision tower's sizes; the defaults are what published configs leave out.

    Attributes:
        window_size: Side in pixels of the windows that all but the full layers attend within.
        fullatt_block_indexes: Layers that attend within the whole image.
        min_pixels: Smaller images are enlarged to this.
        max_pixels: Larger images are reduced to this.
    """

    hidden_size: int
    depth: int = 32
    num_heads: int = 16
    intermediate_size: int = 3420
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    out_hidden_size: int = 3584
    min_pixels: int = 3136
    max_pixels: int = 1003520

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "VisionConfig":
        """Read the vision part of a config.

        Raises:
            BadCheckpoint: Fields are missing, unknown or fixed to something else; all are listed.
        """
        values, problems = _read(cls, given, "understanding.vision", VISION_FIXED)
        if problems:
            raise BadCheckpoint("; ".join(sorted(problems)))
        return cls(**values)

    @property
    def merged_size(self) -> int:
        """Side in pixels of one token's cell."""
        return self.patch_size * self.spatial_merge_size


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenVLConfig:
    """The understanding expert's sizes and special tokens.

    Attributes:
        mrope_section: How many rotary frequencies follow the axes t, h, w.
        eos_token_id: Ends a turn.
        vision: None for an expert that reads no images; then the image tokens may be left out.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, ...]
    eos_token_id: int
    tie_word_embeddings: bool = False
    image_token_id: int = NO_TOKEN
    video_token_id: int = NO_TOKEN
    vision_start_token_id: int = NO_TOKEN
    vision_end_token_id: int = NO_TOKEN
    vision: VisionConfig | None = None

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "QwenVLConfig":
        """Read the understanding part of a config.

        Raises:
            BadCheckpoint: Fields are missing, unknown, fixed to something else, or disagree; all are listed.
        """
        given = dict(given)
        vision = given.pop("vision", None) or given.pop("vision_config", None)
        values, problems = _read(cls, given, "understanding", FIXED)
        if vision is not None:
            values["vision"], more = _read(VisionConfig, vision, "understanding.vision", VISION_FIXED)
            problems += more
        if not problems:
            values["vision"] = None if vision is None else VisionConfig(**values["vision"])
            problems = cls(**values)._problems()
        if problems:
            raise BadCheckpoint("; ".join(sorted(problems)))
        return cls(**values)

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that from_dict reads."""
        return asdict(self)

    def _problems(self) -> list[str]:
        problems = []
        if self.head_dim * self.num_attention_heads != self.hidden_size:
            problems.append(f"{self.num_attention_heads} heads do not divide hidden_size {self.hidden_size}")
        if self.num_attention_heads % self.num_key_value_heads:
            problems.append(
                f"{self.num_key_value_heads} key heads do not divide {self.num_attention_heads} heads"
            )
        if 2 * sum(self.mrope_section) != self.head_dim:
            problems.append(
                f"mrope_section {self.mrope_section} must sum to half of head dim {self.head_dim}"
            )
        if self.vision is not None:
            if self.vision.out_hidden_size != self.hidden_size:
                problems.append(f"vision.out_hidden_size must be hidden_size {self.hidden_size}")
            tokens = ("image_token_id", "vision_start_token_id", "vision_end_token_id")
            problems += [f"missing {name}" for name in tokens if getattr(self, name) == NO_TOKEN]
        return problems


def _read(
    cls: type, given: Mapping[str, Any], where: str, fixed: Mapping[str, tuple[Any, ...]]
) -> tuple[dict[str, Any], list[str]]:
    plain = {name: value for name, value in _plain(given).items() if name not in SILENT}
    given_fixed = {name: plain.pop(name) for name in fixed.keys() & plain.keys()}
    values, problems = read_fields(cls, plain, where)
    problems += [
        f"{where}.{name} must be {' or '.join(map(repr, fixed[name]))}"
        for name, value in given_fixed.items()
        if value not in fixed[name]
    ]
    return values, problems


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a config; null, as the library writes what is not set, says nothing."""
    said = {name: value for name, value in given.items() if value is not None and name[0] != "_"}
    values = {RENAMED.get(name, name): value for name, value in said.items() if name not in LIFTED}
    for name in LIFTED:
        values |= _plain(said[name]) if name in said else {}
    if isinstance(values.get("eos_token_id"), list):
        values["eos_token_id"] = values["eos_token_id"][0]
    return values
