"""What an hbridge checkpoint says about itself; every open decision of the design is a field.

The layout is that of the checkpoint's config.json: `understanding` and `generation` hold the experts' own
configs, `sampler` and `limits` the defaults and bounds of requests.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

from model.errors import BadCheckpoint
from model.fields import read_fields
from model.omnigen2.config import LATENT_STRIDE, MAX_REFERENCES, OmniGen2Config
from model.qwen_vl.config import QwenVLConfig

GENERATION = OmniGen2Config()
Section = TypeVar("Section")
BESIDE = frozenset({"rope_theta", "learned_positions", "max_learned_positions", "text_feat_dim"})
PROMPT_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant that generates high-quality images based on user "
    "instructions.<|im_end|>\n<|im_start|>user\n{images}{prompt}<|im_end|>\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerConfig:
    """Defaults of a request.

    Attributes:
        steps: Flow steps.
        text: Text guidance without images.
        edit_text: Text guidance with images; None takes `text`.
        image: Image guidance; 1 is off.
        interval: Flow times between which guidance works.
        grid: Name of the time grid in model.flow.
    """

    steps: int = 50
    text: float = 4.0
    edit_text: float | None = 5.0
    image: float = 2.0
    interval: tuple[float, float] = (0.0, 1.0)
    grid: Literal["omnigen2", "linear"] = "omnigen2"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Bounds of a request.

    Attributes:
        min_side: Shortest side in pixels.
        max_side: Longest side of an output in pixels.
        max_pixels: Most pixels of an output or a reference.
        max_reference_side: Longest side of a reference in pixels; larger ones are reduced.
        default_size: Width and height in pixels.
        max_prompt_tokens: Longest prompt, template and images included.
        max_references: Most images of an edit.
        max_images: Most images of a question.
    """

    min_side: int = 64
    max_side: int = 2048
    max_pixels: int = 1024 * 1024
    max_reference_side: int = 1024
    default_size: tuple[int, int] = (1024, 1024)
    max_prompt_tokens: int = 8192
    max_references: int = MAX_REFERENCES
    max_images: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class HBridgeConfig:
    """The two experts and how they are joined.

    Pair p joins understanding layer p with generation layer p + prefix_layers; pairs from skip_first on,
    except the last skip_last, are bridged.

    Attributes:
        prefix_scope: Whether the prefix layers run over all generation tokens or over the noise alone.
        bridge_post_norm: Normalises queries and keys per head after the bridge's linear layers.
        srt_position: "origin" gives all learned tokens one position, "text" counts them up as words.
        gen_rope_theta: Rotation base of the unbridged layers.
        learned_positions: Adds learned row and column embeddings to image tokens; for small models.
        max_learned_positions: Rows of each of the two tables.
        prompt_template: Wraps {images} and {prompt}.
        vae: Keyword arguments of diffusers' AutoencoderKL, scaling and shift included; None means that
            latents go in and come out.
    """

    understanding: QwenVLConfig
    generation: OmniGen2Config = GENERATION
    prefix_layers: int = 4
    prefix_scope: Literal["all", "noise"] = "all"
    skip_first: int = 6
    skip_last: int = 6
    und_reads_gen: Literal[False] = False
    gen_order: Literal["ref_srt_noise"] = "ref_srt_noise"
    bridge_order: Literal["qknorm_linear_rope"] = "qknorm_linear_rope"
    bridge_bias: bool = False
    bridge_rope: Literal["mrope"] = "mrope"
    bridge_out: Literal["linear_then_to_out"] = "linear_then_to_out"
    bridge_post_norm: bool = False
    srt_count: int = 16
    srt_position: Literal["origin", "text"] = "origin"
    prompt_template: str = PROMPT_TEMPLATE
    sampler: SamplerConfig = SamplerConfig()
    limits: LimitsConfig = LimitsConfig()
    gen_rope_theta: float = 1e4
    learned_positions: bool = False
    max_learned_positions: int = 128
    vae: Mapping[str, Any] | None = field(default=None, hash=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "HBridgeConfig":
        """Read config.json's content; a key "family" is passed over.

        Raises:
            BadCheckpoint: Lists every unknown field, unsupported value and disagreement.
        """
        parts, problems = _read_parts(data)
        rest = {name: value for name, value in data.items() if name not in PARTS and name != "family"}
        values, more = read_fields(cls, rest | parts, "config")
        problems += [problem for problem in more if problem != "config.understanding is missing"]
        if "understanding" not in values or problems:
            raise BadCheckpoint("; ".join(problems))
        config = cls(**values)
        if problems := config.problems():
            raise BadCheckpoint("; ".join(problems))
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that from_dict reads."""
        plain = asdict(self)
        generation = plain["generation"].items()
        plain["generation"] = {name: value for name, value in generation if name not in BESIDE}
        return plain

    def problems(self) -> list[str]:
        """Say what does not fit together, a sentence each."""
        und_layers, gen_layers = self.understanding.num_hidden_layers, self.generation.num_layers
        latent_channels = (self.vae or {}).get("latent_channels", self.generation.in_channels)
        longest = max(self.limits.max_side, self.limits.max_reference_side)
        checks = {
            f"understanding has {und_layers} layers, which must be generation's {gen_layers} less "
            f"prefix_layers {self.prefix_layers}": und_layers == gen_layers - self.prefix_layers,
            f"skip_first {self.skip_first} and skip_last {self.skip_last} must be 0 or more and at most "
            f"{und_layers} together": min(self.skip_first, self.skip_last) >= 0
            and self.skip_first + self.skip_last <= und_layers,
            "understanding.mrope_section must be three numbers": len(self.understanding.mrope_section) == 3,
            f"vae.latent_channels {latent_channels} must be generation.in_channels "
            f"{self.generation.in_channels}": latent_channels == self.generation.in_channels,
            f"limits.max_references {self.limits.max_references} must be 0 to {MAX_REFERENCES}": 0
            <= self.limits.max_references
            <= MAX_REFERENCES,
            f"limits of {longest} pixels a side need max_learned_positions of at least "
            f"{longest // self.size_step}": not self.learned_positions
            or longest // self.size_step <= self.max_learned_positions,
            "srt_count must be 1 or more": self.srt_count >= 1,
            "prompt_template must have {prompt} in it": "{prompt}" in self.prompt_template,
        }
        return [problem for problem, holds in checks.items() if not holds]

    @property
    def positioned_generation(self) -> OmniGen2Config:
        """The generation expert's config with the fields on positions that stand beside it."""
        return replace(
            self.generation,
            rope_theta=self.gen_rope_theta,
            learned_positions=self.learned_positions,
            max_learned_positions=self.max_learned_positions,
        )

    @property
    def pairs(self) -> range:
        """Numbers of the bridged pairs, which are understanding layers."""
        return range(self.skip_first, self.understanding.num_hidden_layers - self.skip_last)

    @property
    def first_bridged_layer(self) -> int:
        """The first generation layer that may read the prompt."""
        return self.prefix_layers + self.skip_first

    @property
    def latent_stride(self) -> int:
        """Pixels per latent pixel."""
        return LATENT_STRIDE if self.vae is None else 2 ** (len(self.vae.get("block_out_channels", [0])) - 1)

    @property
    def size_step(self) -> int:
        """Pixels per token."""
        return self.latent_stride * self.generation.patch_size


def _section(cls: type[Section], data: Mapping[str, Any], where: str) -> Section:
    values, problems = read_fields(cls, data, where)
    if problems:
        raise BadCheckpoint("; ".join(problems))
    return cls(**values)


def _generation(data: Mapping[str, Any]) -> OmniGen2Config:
    if beside := data.keys() & BESIDE:
        raise BadCheckpoint("; ".join(f"generation.{name} does not belong there" for name in sorted(beside)))
    return OmniGen2Config.from_dict(data)


PARTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "understanding": QwenVLConfig.from_dict,
    "generation": _generation,
    "sampler": lambda data: _section(SamplerConfig, data, "sampler"),
    "limits": lambda data: _section(LimitsConfig, data, "limits"),
}


def _read_parts(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    parts: dict[str, Any] = {}
    problems = [] if "understanding" in data else ["config.understanding is missing"]
    for name in PARTS.keys() & data.keys():
        if not isinstance(data[name], Mapping):
            problems.append(f"config.{name} {data[name]!r} is not an object")
            continue
        try:
            parts[name] = PARTS[name](data[name])
        except BadCheckpoint as error:
            problems.append(str(error))
    return parts, sorted(problems)
