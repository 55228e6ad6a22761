"""Floating-point operations of the understanding expert."""

from collections.abc import Sequence
from typing import cast

from torch import nn

from model.family import Context, TextRow
from model.flops import attention, per_token
from model.qwen_vl.config import VisionConfig
from model.qwen_vl.decoder import DecoderLayer
from model.qwen_vl.expert import QwenVL
from model.qwen_vl.token_prompt import ImagePatches, TokenPrompt


class ExpertFlops:
    """Of the calls of one expert."""

    def __init__(self, expert: QwenVL) -> None:
        config = expert.config
        layer = cast(DecoderLayer, expert.model.layers[0])
        self._layer = per_token(layer)
        self._keys_values = per_token(layer.self_attn.k_proj, layer.self_attn.v_proj)
        self._head = 2 * config.hidden_size * config.vocab_size
        self._width, self._num_layers = config.hidden_size, config.num_hidden_layers
        self._pad = config.image_token_id
        self._vision = None
        if config.vision is not None and expert.visual is not None:
            self._vision = VisionFlops(config.vision, expert.visual)

    def prefill(
        self,
        prompts: Sequence[TokenPrompt],
        prefixes: Sequence[Context | None],
        *,
        keep: Sequence[int] = (),
        num_logits: int = 0,
    ) -> int:
        """Count a packed prefill.

        Args:
            keep: As in QwenVL.prefill: without logits, the last of them stops at its keys and values.
            num_logits: Tokens that go on through all layers to the logits.
        """
        starts = [prefix.num_tokens if prefix else 0 for prefix in prefixes]
        rests = [prompt.after(start, self._pad) for prompt, start in zip(prompts, starts, strict=True)]
        lengths = [len(rest.tokens) for rest in rests]
        pairs = [length * (start + length) for length, start in zip(lengths, starts, strict=True)]
        seen = self._vision.see([image for rest in rests for image in rest.images]) if self._vision else 0
        if num_logits:
            return seen + self._layers(self._num_layers, lengths, pairs) + num_logits * self._head
        last = self._keys_values * sum(lengths) if keep else 0
        return seen + self._layers(max(keep, default=0), lengths, pairs) + last

    def features(self, prompts: Sequence[TokenPrompt]) -> int:
        """Count the features of every token: all layers, no logits."""
        lengths = [len(prompt.tokens) for prompt in prompts]
        seen = self._vision.see([image for each in prompts for image in each.images]) if self._vision else 0
        return seen + self._layers(self._num_layers, lengths, [length**2 for length in lengths])

    def next_tokens(self, rows: Sequence[TextRow]) -> int:
        """Count a packed call of text decoding, before it is made."""
        pairs = [row.cache.num_tokens + 1 for row in rows]
        return self._layers(self._num_layers, [1] * len(rows), pairs) + len(rows) * self._head

    def _layers(self, count: int, lengths: Sequence[int], pairs: Sequence[int]) -> int:
        return count * (self._layer * sum(lengths) + attention(self._width, sum(pairs)))


class VisionFlops:
    """Of the vision tower."""

    def __init__(self, config: VisionConfig, tower: nn.Module) -> None:
        self._patch = per_token(tower.get_submodule("blocks"))
        self._patch += sum(2 * weight.numel() for weight in tower.get_submodule("patch_embed").parameters())
        self._cell = per_token(tower.get_submodule("merger"))
        self._width, self._cell_patches = config.hidden_size, config.spatial_merge_size**2
        self._window_cells = config.window_size // config.merged_size
        self._num_full = len(set(config.fullatt_block_indexes) & set(range(config.depth)))
        self._num_windowed = config.depth - self._num_full

    def see(self, images: Sequence[ImagePatches]) -> int:
        """Count a call for all images."""
        return sum(map(self._see, images))

    def _see(self, image: ImagePatches) -> int:
        full = image.num_tokens**2
        windowed = _squares(image.rows, self._window_cells) * _squares(image.columns, self._window_cells)
        cell_pairs = self._num_full * full + self._num_windowed * windowed
        passed = image.num_tokens * (self._cell + self._cell_patches * self._patch)
        return passed + attention(self._width, self._cell_patches**2 * cell_pairs)


def _squares(length: int, window: int) -> int:
    """Cut a length into windows, the last of them shorter, and add up their squares."""
    whole, rest = divmod(length, window)
    return whole * window**2 + rest**2
