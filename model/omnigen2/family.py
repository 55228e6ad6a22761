"""The OmniGen2 family: text features of a language model condition a diffusion transformer.

Shapes: L text tokens, h width of the transformer, C latent channels, Y and X latent rows and columns, H and W
pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from PIL.Image import Image
from torch import Tensor, nn

from model.attention import Backend, Heads
from model.errors import MissingCapability, PromptTooLong, TooManyReferences
from model.family import Capabilities, Context, Depth, PreparedPrompt, Row, Size, TextCache, TextRow
from model.flow import SOLVERS
from model.images import fitted_size, resize_reference
from model.latents import build_autoencoder, decode_latent, draw_noise, encode_references
from model.omnigen2.config import LATENT_STRIDE, MAX_REFERENCES, OmniGen2CheckpointConfig, OmniGen2Config
from model.omnigen2.flops import OmniGen2Flops
from model.omnigen2.layout import Grid, Images, axis_starts
from model.omnigen2.names import OMNIGEN2
from model.omnigen2.stack import Runner
from model.omnigen2.transformer import OmniGen2Transformer
from model.preview import Previewer
from model.prompt import Prompt
from model.qwen_vl.expert import QwenVL
from model.qwen_vl.prepared_tokens import PreparedTokens
from model.qwen_vl.processor import Processor
from model.qwen_vl.tokenizer import Tokenizer

PROMPT_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant that generates high-quality images based on user "
    "instructions.<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
)
NO_ANSWERS = "omnigen2 answers no questions; it generates and edits"
MAX_PIXELS = 1024 * 1024
DEFAULT_SIDE = 1024
MIN_SIDE = 64
MAX_SIDE = 2048
MAX_REFERENCE_SIDE = 1024


@dataclass(frozen=True, slots=True)
class TextContext:
    """The text features of one prompt, embedded and refined [L, h]: all of it that knows no time."""

    text_Lh: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt."""
        return self.text_Lh.shape[0]

    @property
    def num_bytes(self) -> int:
        """Memory that the text holds."""
        return self.text_Lh.nbytes


class OmniGen2Module(nn.Module):
    """Everything that has weights, under the names of the checkpoint's folders."""

    def __init__(
        self, transformer: OmniGen2Transformer, autoencoder: nn.Module | None, expert: QwenVL | None
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.vae = autoencoder
        self.mllm = expert


class OmniGen2:
    """One loaded OmniGen2 checkpoint; parts that it lacks are refused when asked for.

    Attributes:
        module: All weights, under the names of the checkpoint's folders.
        processor: Prompts to tokens; None without a language model.
        flops: What its calls take.
    """

    names = OMNIGEN2

    def __init__(self, config: OmniGen2CheckpointConfig, tokenizer: Tokenizer | None) -> None:
        self.config = config
        self.transformer = OmniGen2Transformer(config.transformer)
        autoencoder = None if config.vae is None else build_autoencoder(config.vae)
        expert = None if config.mllm is None else QwenVL(config.mllm)
        self.module = OmniGen2Module(self.transformer, autoencoder, expert)
        self.capabilities = capabilities(config)
        self.flops = OmniGen2Flops(config, self.transformer, expert)
        self._previewer: Previewer | None = None
        self.processor: Processor | None = None
        if config.mllm is not None:
            longest = self.capabilities.max_prompt_tokens
            self.processor = Processor(
                config.mllm, tokenizer, draw_template=PROMPT_TEMPLATE, max_prompt_tokens=longest
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path | None) -> Self:
        """Build from the parts' configs and the tokenizer in the folder or its processor, weights unread.

        Raises:
            BadCheckpoint: A config or the tokenizer is not understood.
        """
        tokenizer = None
        if folder is not None:
            tokenizer = Tokenizer.from_folder(folder / "processor") or Tokenizer.from_folder(folder)
        return cls(OmniGen2CheckpointConfig.from_dict(config), tokenizer)

    def prepare(self, prompt: Prompt) -> PreparedTokens:
        """Tokenize a prompt; images are not shown to the language model.

        Raises:
            BadRequest: It cannot be read; its subclasses say why. With its images it may be too long.
            MissingCapability: The checkpoint has no language model or tokenizer, or the prompt asks.
        """
        if self.processor is None:
            raise MissingCapability("this checkpoint has no language model to read prompts")
        if prompt.task == "understand":
            raise MissingCapability(NO_ANSWERS)
        prepared = self.processor.prepare(prompt)
        grids = [self._reference_grid(image) for image in prompt.images]
        check_reach(len(prepared.prompt.tokens), grids, self.config.transformer)
        return prepared

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Prompt | PreparedPrompt], *, prefixes: Sequence[Context | None] | None = None
    ) -> list[Context]:
        """Make and refine the text features of each prompt, which is a single block and so has no prefixes.

        They are what the language model's final norm gives, of every token of the template.

        Raises:
            BadRequest: As prepare.
            MissingCapability: As prepare.
        """
        assert not any(prefixes or ()), "a single block has no beginning"
        prepared = [self.prepare(each) if isinstance(each, Prompt) else each for each in prompts]
        read = [cast(PreparedTokens, each).prompt for each in prepared]
        expert = cast(QwenVL, self.module.mllm)
        return [TextContext(text_Lh) for text_Lh in self.transformer.refine_texts(expert.features(read))]

    def part(self, context: Context, num_tokens: int, depth: Depth) -> Context:
        """Return the context of a whole prompt: refined text knows what comes after it."""
        assert num_tokens == context.num_tokens, "a single block has no beginning"
        return context

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> list[Tensor]:
        """Turn reference images into latents [C, Y, X] by the mean of their posterior.

        Raises:
            MissingCapability: There is no autoencoder in the checkpoint.
        """
        resized = [resize_reference(image, **self._reference_bounds) for image in images]
        return encode_references(self.module.vae, resized)

    def noise(self, size: Size, seed: int) -> Tensor:
        """Draw noise [C, Y, X] on the CPU from the seed."""
        noise_CYX = draw_noise(self.config.transformer.in_channels, size, LATENT_STRIDE, seed)
        return noise_CYX.to(self.transformer.x_embedder.weight.device)

    @torch.inference_mode()
    def velocity(self, rows: Sequence[Row]) -> list[Tensor]:
        """Predict d latent / d time of every row, float32 [C, Y, X] each, in one packed call.

        Raises:
            PromptTooLong: Text and references together go beyond the positions the model was made for.
            TooManyReferences: A row has more references than the model tells apart.
        """
        texts = [cast(TextContext, row.context).text_Lh for row in rows]
        grids = Images.of(rows, self.config.transformer.patch_size).references
        for text_Lh, references in zip(texts, grids, strict=True):
            check_reach(len(text_Lh), references, self.config.transformer)
        return cast(list[Tensor], self.transformer(rows, texts))

    @torch.inference_mode()
    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Turn latents into pictures [3, H, W] in [0, 1]; as they are when the config has no autoencoder.

        Raises:
            MissingCapability: The config has an autoencoder and the checkpoint lacks its weights.
        """
        if self.config.vae is None:
            return list(latents)
        if self.module.vae is None:
            raise MissingCapability("this checkpoint lacks the autoencoder's weights: it makes no pictures")
        return [decode_latent(self.module.vae, latent_CYX) for latent_CYX in latents]

    @torch.inference_mode()
    def preview(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Turn latents into rough pictures [3, H, W] in [0, 1], without the decoder.

        Raises:
            MissingCapability: There is no autoencoder.
        """
        if self._previewer is None:
            if self.module.vae is None:
                raise MissingCapability("this checkpoint has no autoencoder: it shows no previews")
            self._previewer = Previewer(self.module.vae)
        return self._previewer(latents)

    def begin_answer(self, context: Context) -> tuple[TextCache, Tensor]:
        """Refuse: this family answers no questions.

        Raises:
            MissingCapability: Always.
        """
        raise MissingCapability(NO_ANSWERS)

    def next_tokens(self, rows: Sequence[TextRow]) -> Tensor:
        """Refuse: this family answers no questions.

        Raises:
            MissingCapability: Always.
        """
        raise MissingCapability(NO_ANSWERS)

    def text(self, tokens: Sequence[int]) -> str:
        """Refuse: this family answers no questions.

        Raises:
            MissingCapability: Always.
        """
        raise MissingCapability(NO_ANSWERS)

    @property
    def end_tokens(self) -> frozenset[int]:
        """None: this family answers no questions."""
        return frozenset()

    def output_size(self, references: Sequence[Image]) -> Size:
        """The size of an edit that names none: that of its only image as it is read, or the default size.

        Source: OmniGen2, arXiv:2506.18871, released pipeline, align_res.
        """
        if len(references) > 1:
            return self.capabilities.default_size
        size = fitted_size(Size(*references[0].size), **self._reference_bounds)
        return Size(max(size.width, MIN_SIDE), max(size.height, MIN_SIDE))

    @property
    def _reference_bounds(self) -> dict[str, int]:
        can = self.capabilities
        side = min(MAX_REFERENCE_SIDE, can.max_side)
        return {"max_pixels": can.max_pixels, "max_side": side, "step": can.size_step}

    def _reference_grid(self, image: Image) -> Grid:
        size, step = fitted_size(Size(*image.size), **self._reference_bounds), self.capabilities.size_step
        return size.height // step, size.width // step

    @property
    def heads(self) -> tuple[Heads, Heads | None]:
        """The attention of the generation side, and that of the understanding side where there is one."""
        gen, und = self.config.transformer, self.config.mllm
        own = Heads(gen.num_attention_heads, gen.num_kv_heads, gen.head_dim)
        if und is None:
            return own, None
        return own, Heads(und.num_attention_heads, und.num_key_value_heads, und.head_dim, causal=True)

    def use_backends(self, generation: Backend, understanding: Backend) -> None:
        """Choose how attention is computed on each side."""
        self.transformer.backend = generation
        if self.module.mllm is not None:
            self.module.mllm.use_backend(understanding)

    def use_runner(self, runner: Runner) -> None:
        """Choose how the generation side's stacks of blocks are computed."""
        self.transformer.runner = runner


def check_reach(num_text: int, references: Sequence[Grid], config: OmniGen2Config) -> None:
    """Refuse a row whose positions go beyond those the model was made for.

    Args:
        num_text: Tokens of its text.
        references: Patch rows and columns of its references.
        config: Of the transformer.

    Raises:
        PromptTooLong: Says how far they go.
        TooManyReferences: There are more than the model tells apart.
    """
    if len(references) > MAX_REFERENCES:
        raise TooManyReferences(f"{len(references)} images, {MAX_REFERENCES} at most", param="image")
    last = axis_starts(num_text, references)[-1]
    if last >= config.axes_lens[0]:
        raise PromptTooLong(
            f"the prompt's {num_text} tokens and its images take {last + 1} positions, "
            f"{config.axes_lens[0]} at most; shorten it, or bring fewer or smaller images",
            param="prompt",
        )


def capabilities(config: OmniGen2CheckpointConfig) -> Capabilities:
    """Say what a checkpoint with these parts can do.

    Sizes and prompts stay within the positions that the model was made for.

    Source: OmniGen2, arXiv:2506.18871, published examples.
    """
    draws = config.vae is not None and config.mllm is not None
    size_step = LATENT_STRIDE * config.transformer.patch_size
    beginning, *sides = config.transformer.axes_lens
    max_side = min(MAX_SIDE, size_step * min(sides))
    default_side = min(DEFAULT_SIDE, max_side)
    return Capabilities(
        family="omnigen2",
        tasks=("generate", "edit") if draws else (),
        size_step=size_step,
        min_side=MIN_SIDE,
        max_side=max_side,
        max_pixels=MAX_PIXELS,
        default_size=Size(default_side, default_side),
        max_references=MAX_REFERENCES,
        max_images=0,
        max_prompt_tokens=min(beginning - 1, *sides),
        solvers=SOLVERS,
        num_inference_steps=50,
        guidance_scale=4.0,
        edit_guidance_scale=5.0,
        image_guidance_scale=2.0,
        guidance_clock="step",
        grid="omnigen2" if config.scheduler.dynamic_time_shift else "linear",
    )
