"""The hbridge family: Qwen2.5-VL understands, the bridged transformer draws, an autoencoder makes pictures.

Shapes: C latent channels, Y and X latent rows and columns, H and W pixels, R rows, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from PIL.Image import Image
from torch import Tensor, nn

from model.attention import Backend, Heads
from model.errors import MissingCapability
from model.family import Capabilities, Context, Depth, PreparedPrompt, Row, Size, TextCache, TextRow
from model.flow import SOLVERS
from model.hbridge.config import HBridgeConfig
from model.hbridge.flops import HBridgeFlops
from model.hbridge.names import HBRIDGE
from model.hbridge.network import HBridgeNetwork
from model.images import output_size, resize_reference
from model.latents import build_autoencoder, decode_latent, draw_noise, encode_references
from model.omnigen2.stack import Runner
from model.preview import Previewer
from model.prompt import Prompt
from model.qwen_vl.context import KVContext
from model.qwen_vl.expert import QwenVL
from model.qwen_vl.kv_cache import KVCache
from model.qwen_vl.prepared_tokens import PreparedTokens
from model.qwen_vl.processor import Processor
from model.qwen_vl.tokenizer import Tokenizer


class HBridgeModule(nn.Module):
    """Everything that has weights, under the checkpoint's names."""

    def __init__(self, network: HBridgeNetwork, expert: QwenVL, autoencoder: nn.Module | None) -> None:
        super().__init__()
        self._parameters = network._parameters  # srt_tokens: replaced in one, replaced in both
        self.und = expert
        self.gen = network.gen
        self.bridge = network.bridge
        self.srt_proj = network.srt_proj
        self.vae = autoencoder


class HBridge:
    """One loaded hbridge checkpoint.

    Attributes:
        module: All weights; load and move them here.
        network: The part that training the bridge changes.
        expert: The understanding expert.
        processor: Prompts to tokens and back.
        flops: What its calls take.
    """

    names = HBRIDGE

    def __init__(self, config: HBridgeConfig, tokenizer: Tokenizer | None) -> None:
        self.config = config
        self.network = HBridgeNetwork(config)
        self.expert = QwenVL(config.understanding)
        autoencoder = None if config.vae is None else build_autoencoder(config.vae)
        self.module = HBridgeModule(self.network, self.expert, autoencoder)
        self.processor = Processor(
            config.understanding,
            tokenizer,
            draw_template=config.prompt_template,
            max_prompt_tokens=config.limits.max_prompt_tokens,
        )
        self.capabilities = capabilities(config)
        self.flops = HBridgeFlops(config, self.network, self.expert)
        self._previewer: Previewer | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path | None) -> Self:
        """Build from config.json's content and the tokenizer in the folder, weights unread.

        Raises:
            BadCheckpoint: The config or the tokenizer is not understood.
        """
        tokenizer = None if folder is None else Tokenizer.from_folder(folder)
        return cls(HBridgeConfig.from_dict(config), tokenizer)

    @property
    def vae(self) -> nn.Module | None:
        """The autoencoder; None when latents go in and come out."""
        return self.module.vae

    def prepare(self, prompt: Prompt) -> PreparedTokens:
        """Tokenize a prompt and cut its images.

        Raises:
            BadRequest: It cannot be read; its subclasses say why.
            MissingCapability: The checkpoint lacks a tokenizer or a vision tower that it needs.
        """
        return self.processor.prepare(prompt)

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Prompt | PreparedPrompt], *, prefixes: Sequence[Context | None] | None = None
    ) -> list[Context]:
        """Run the understanding expert once over each prompt.

        Prompts to draw stop at the last bridged layer's keys and values; questions go on to the logits.

        Args:
            prefixes: For each prompt, the context of a beginning of it, after which to go on.

        Raises:
            BadRequest: As prepare.
            MissingCapability: As prepare.
            ValueError: A prefix is not deep enough, or leaves nothing to read.
        """
        readable = [self.prepare(each) if isinstance(each, Prompt) else each for each in prompts]
        prepared = cast(list[PreparedTokens], readable)
        known = cast(Sequence[KVContext | None], prefixes or [None] * len(prompts))
        contexts: dict[int, Context] = {}
        for is_question in (False, True):
            chosen = [i for i, each in enumerate(prepared) if (each.depth is Depth.ANSWER) == is_question]
            if chosen:
                read = self.expert.prefill(
                    [prepared[i].prompt for i in chosen],
                    keep=self._layers(max(prepared[i].depth for i in chosen)),
                    logits=is_question,
                    prefixes=[known[i] for i in chosen],
                )
                for i, context in zip(chosen, read, strict=True):
                    contexts[i] = context.only(self._layers(prepared[i].depth))
        return [contexts[i] for i in range(len(prompts))]

    def part(self, context: Context, num_tokens: int, depth: Depth) -> Context:
        """Return the context of a prompt's first tokens, no deeper than this one."""
        kept = cast(KVContext, context).only(self._layers(depth))
        return kept if num_tokens == kept.num_tokens else kept.first(num_tokens)

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> list[Tensor]:
        """Turn reference images into latents [C, Y, X] by the mean of their posterior.

        Raises:
            MissingCapability: There is no autoencoder in the checkpoint.
        """
        limits = self.config.limits
        bounds = {
            "max_pixels": limits.max_pixels,
            "max_side": limits.max_reference_side,
            "step": self.config.size_step,
        }
        return encode_references(self.vae, [resize_reference(image, **bounds) for image in images])

    def noise(self, size: Size, seed: int) -> Tensor:
        """Draw noise [C, Y, X] on the CPU from the seed."""
        channels, stride = self.config.generation.in_channels, self.config.latent_stride
        return draw_noise(channels, size, stride, seed).to(self.network.srt_tokens.device)

    @torch.inference_mode()
    def velocity(self, rows: Sequence[Row]) -> list[Tensor]:
        """Predict d latent / d time of every row, float32 [C, Y, X] each, in one packed call."""
        return cast(list[Tensor], self.network(rows).velocities)

    @torch.inference_mode()
    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Turn latents into pictures [3, H, W] in [0, 1]; as they are when the config has no autoencoder.

        Raises:
            MissingCapability: The config has an autoencoder and the checkpoint lacks its weights.
        """
        if self.config.vae is None:
            return list(latents)
        if self.vae is None:
            raise MissingCapability("this checkpoint lacks the autoencoder's weights: it makes no pictures")
        return [decode_latent(self.vae, latent_CYX) for latent_CYX in latents]

    @torch.inference_mode()
    def preview(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Turn latents into rough pictures [3, H, W] in [0, 1], without the decoder.

        Raises:
            MissingCapability: There is no autoencoder.
        """
        if self._previewer is None:
            if self.vae is None:
                raise MissingCapability("this checkpoint has no autoencoder: it shows no previews")
            self._previewer = Previewer(self.vae)
        return self._previewer(latents)

    def begin_answer(self, context: Context) -> tuple[TextCache, Tensor]:
        """Open an answer on the context of an understand prompt: its cache and its first logits [V].

        Raises:
            ValueError: The context is that of a picture.
        """
        if not isinstance(context, KVContext) or context.logits_V is None:
            raise ValueError("an answer begins from the context of an understand prompt")
        return KVCache(context), context.logits_V

    @torch.inference_mode()
    def next_tokens(self, rows: Sequence[TextRow]) -> Tensor:
        """Feed one token per row, grow the rows' caches, return the logits [R, V]."""
        return self.expert.next_tokens(rows)

    def text(self, tokens: Sequence[int]) -> str:
        """Turn answer tokens into words.

        Raises:
            MissingCapability: The checkpoint has no tokenizer.
        """
        return self.processor.decode(tokens)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self.processor.end_tokens

    def output_size(self, references: Sequence[Image]) -> Size:
        """The size that an edit of these images gets when the request names none."""
        return output_size(references, self.capabilities)

    @property
    def heads(self) -> tuple[Heads, Heads | None]:
        """The attention of the generation side, and that of the understanding side where there is one."""
        gen, und = self.config.generation, self.config.understanding
        own = Heads(gen.num_attention_heads, gen.num_kv_heads, gen.head_dim)
        return own, Heads(und.num_attention_heads, und.num_key_value_heads, und.head_dim, causal=True)

    def use_backends(self, generation: Backend, understanding: Backend) -> None:
        """Choose how attention is computed on each side."""
        self.network.gen.backend = generation
        self.expert.use_backend(understanding)

    def use_runner(self, runner: Runner) -> None:
        """Choose how the generation side's stacks of blocks are computed."""
        self.network.gen.runner = runner

    def _layers(self, depth: Depth) -> range:
        """Return the understanding layers whose keys and values a context of this depth holds."""
        if depth is Depth.PICTURE:
            return self.config.pairs
        last = max(self.config.pairs, default=-1)
        return range(last + 1 if depth is Depth.BEGINNING else self.config.understanding.num_hidden_layers)


def capabilities(config: HBridgeConfig) -> Capabilities:
    """Say what a checkpoint with this config can do; without an autoencoder it only understands."""
    limits, sampler = config.limits, config.sampler
    draws = config.vae is not None
    edits = draws and limits.max_references > 0
    return Capabilities(
        family="hbridge",
        tasks=(*(("generate",) if draws else ()), *(("edit",) if edits else ()), "understand"),
        size_step=config.size_step,
        min_side=limits.min_side,
        max_side=limits.max_side,
        max_pixels=limits.max_pixels,
        default_size=Size(*limits.default_size),
        max_references=limits.max_references,
        max_images=0 if config.understanding.vision is None else limits.max_images,
        max_prompt_tokens=limits.max_prompt_tokens,
        solvers=SOLVERS,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.text,
        edit_guidance_scale=sampler.text if sampler.edit_text is None else sampler.edit_text,
        image_guidance_scale=sampler.image,
        guidance_interval=sampler.interval,
        guidance_clock="time",
        grid=sampler.grid,
    )
