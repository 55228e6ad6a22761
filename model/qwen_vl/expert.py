"""The understanding expert: Qwen2.5-VL with K/V of chosen layers, early stopping and packed prompts.

Shapes: T packed tokens, L tokens of a prompt, R rows, C width, V vocabulary, P patches, E values of a patch,
K key heads, D head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.attention import Backend, Segments
from model.errors import MissingCapability
from model.family import TextRow
from model.qwen_vl.branching import Branching
from model.qwen_vl.config import QwenVLConfig
from model.qwen_vl.context import KVContext, Recorder
from model.qwen_vl.decoder import Decoder, Read, read_own
from model.qwen_vl.kv_cache import KVCache
from model.qwen_vl.token_prompt import ImagePatches, TokenPrompt, position_ids
from model.qwen_vl.vision import VisionAttention, build_vision


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Prompts laid end to end, embedded, images in place."""

    hidden_TC: Tensor
    ids_T3: Tensor
    lengths: tuple[int, ...]
    next_ids: tuple[int, ...]


class QwenVL(nn.Module):
    """Reads prompts, answers questions, and hands out its keys and values.

    Attributes:
        num_prefilled_tokens: Tokens that `prefill` has read since it was made.
        backend: How attention is computed; `use_backend` changes it.
    """

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        self.config = config
        self.num_prefilled_tokens = 0
        self.backend: Backend = "sdpa"
        self.visual = None if config.vision is None else build_vision(config.vision)
        self.model = Decoder(config)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def use_backend(self, backend: Backend) -> None:
        """Choose how attention is computed, in the vision tower too."""
        self.backend = backend
        for module in self.modules():
            if isinstance(module, VisionAttention):
                module.backend = backend

    def prefill(
        self,
        prompts: Sequence[TokenPrompt],
        *,
        keep: Sequence[int],
        logits: bool = False,
        prefixes: Sequence[KVContext | None] | None = None,
    ) -> list[KVContext]:
        """Read prompts in one packed call.

        Args:
            keep: Layers whose keys and values are handed out, rising.
            logits: Whether to go on to the logits of each prompt's next token; otherwise the last kept
                layer stops at its keys and values.
            prefixes: For each prompt, what an earlier call left of its first tokens: then only the rest is
                read. None reads it all.

        Raises:
            BadRequest: Images and placeholders do not match.
            MissingCapability: Images for an expert without a vision tower.
            ValueError: A prefix lacks layers that the rest passes, or leaves nothing to read.
        """
        num_layers = self.config.num_hidden_layers if logits else max(keep, default=-1) + 1
        prefixes = prefixes or [None] * len(prompts)
        _check_prefixes(prefixes, prompts, num_layers)
        packed = self.pack(prompts, [prefix.num_tokens if prefix else 0 for prefix in prefixes])
        self.num_prefilled_tokens += sum(packed.lengths)
        recorder = Recorder(keep, packed.lengths, prefixes)
        logits_RV: Sequence[Tensor | None] = [None] * len(prompts)
        if logits:
            features_TC = self._run(packed, recorder.read, recorder.kv_lengths)
            ends_R = torch.tensor(packed.lengths).cumsum(0) - 1
            packed_RV = self.head(features_TC[ends_R.to(features_TC.device)]).float()
            logits_RV = [each_V.clone() for each_V in packed_RV]
        elif keep:
            self._run(packed, recorder.read, recorder.kv_lengths, until=max(keep))
        return recorder.contexts(packed.ids_T3, packed.next_ids, logits_RV)

    def next_tokens(self, rows: Sequence[TextRow]) -> Tensor:
        """Feed one token per answer, grow the caches, return float32 logits [R, V].

        Raises:
            ValueError: Two rows share a cache, or a cache is not ours.
        """
        caches = [row.cache for row in rows if isinstance(row.cache, KVCache)]
        if len({id(cache) for cache in caches}) != len(rows):
            raise ValueError("each row needs a cache of its own, made by begin_answer")
        device = self.model.embed_tokens.weight.device
        tokens_R = torch.tensor([row.token for row in rows], device=device)
        ids_R3 = torch.tensor([[cache.next_id] * 3 for cache in caches], device=device)
        segments = Segments(
            (1,) * len(rows),
            tuple(cache.num_tokens + 1 for cache in caches),
            causal=True,
            backend=self.backend,
        )
        features_RC = self.model(self.model.embed_tokens(tokens_R), ids_R3, segments, _grow(caches))
        for cache in caches:
            cache.commit(1)
        return self.head(features_RC).float()

    def features(self, prompts: Sequence[TokenPrompt]) -> list[Tensor]:
        """Return the normed features [L, C] of every token."""
        packed = self.pack(prompts)
        features_TC = self._run(packed)
        return list(torch.split(features_TC, list(packed.lengths)))

    def logits(self, prompts: Sequence[TokenPrompt]) -> list[Tensor]:
        """Return the logits [L, V] after every token."""
        return [self.head(features_LC) for features_LC in self.features(prompts)]

    def branch_features(
        self, prompts: Sequence[TokenPrompt], branches: Sequence[Sequence[Sequence[int]]]
    ) -> Tensor:
        """Read several continuations of each prompt at once, each blind to the others.

        Args:
            prompts: Shared beginnings, images included.
            branches: For each prompt, token ids of its continuations; text only.

        Returns:
            Normed features [T, C] of the branches' tokens, packed in order.
        """
        packed = self.pack(prompts)
        device = packed.hidden_TC.device
        tails = [
            (next_id, tail)
            for next_id, of_one in zip(packed.next_ids, branches, strict=True)
            for tail in of_one
        ]
        tokens_T = torch.tensor([token for _, tail in tails for token in tail], device=device)
        ids_T = torch.cat([torch.arange(next_id, next_id + len(tail)) for next_id, tail in tails]).to(device)
        lengths = [[len(tail) for tail in of_one] for of_one in branches]
        branching = Branching.of(packed.lengths, lengths, backend=self.backend)
        features_TC: Tensor = self.model(
            torch.cat([packed.hidden_TC, self.model.embed_tokens(tokens_T)]),
            torch.cat([packed.ids_T3, ids_T[:, None].expand(-1, 3)]),
            branching.segments,
            branching.read,
        )
        return features_TC[sum(packed.lengths) :]

    def head(self, features_TC: Tensor) -> Tensor:
        """Turn normed features into logits."""
        if self.lm_head is None:
            return nn.functional.linear(features_TC, self.model.embed_tokens.weight)
        logits_TV: Tensor = self.lm_head(features_TC)
        return logits_TV

    def pack(self, prompts: Sequence[TokenPrompt], starts: Sequence[int] | None = None) -> Packed:
        """Embed prompts end to end, all of their images in one call of the vision tower.

        Args:
            starts: Where to begin in each prompt, with no image across it; at 0 unless told.

        Raises:
            BadRequest: Images and placeholders do not match.
            MissingCapability: Images for an expert without a vision tower.
        """
        device = self.model.embed_tokens.weight.device
        pad = self.config.image_token_id
        starts = starts or [0] * len(prompts)
        places = [position_ids(each.tokens, each.images, pad) for each in prompts]
        rests = [each.after(start, pad) for each, start in zip(prompts, starts, strict=True)]
        tokens_T = torch.tensor([token for each in rests for token in each.tokens], device=device)
        images = [image for each in rests for image in each.images]
        ids = [ids_L3[start:] for (ids_L3, _), start in zip(places, starts, strict=True)]
        return Packed(
            hidden_TC=self.embed(tokens_T, images),
            ids_T3=torch.cat(ids).to(device),
            lengths=tuple(len(each.tokens) for each in rests),
            next_ids=tuple(next_id for _, next_id in places),
        )

    def embed(self, tokens_T: Tensor, images: Sequence[ImagePatches]) -> Tensor:
        """Embed tokens, and put image features in the place of their placeholders."""
        hidden_TC: Tensor = self.model.embed_tokens(tokens_T)
        if not images:
            return hidden_TC
        features_TC = self.see(images).to(hidden_TC.dtype)
        return hidden_TC.masked_scatter((tokens_T == self.config.image_token_id)[:, None], features_TC)

    def see(self, images: Sequence[ImagePatches]) -> Tensor:
        """Return one feature per image token, all images packed.

        Raises:
            MissingCapability: There is no vision tower.
        """
        if self.visual is None or self.config.vision is None:
            raise MissingCapability("this checkpoint's understanding expert reads no images")
        merge = self.config.vision.spatial_merge_size
        grid = torch.tensor([[1, image.rows * merge, image.columns * merge] for image in images])
        weight = self.model.embed_tokens.weight
        patches_PE = torch.cat([image.patches_PE for image in images]).to(weight.device, weight.dtype)
        features_TC: Tensor = self.visual(patches_PE, grid_thw=grid).pooler_output
        return features_TC

    def _run(
        self,
        packed: Packed,
        read: Read = read_own,
        kv_lengths: tuple[int, ...] | None = None,
        until: int | None = None,
    ) -> Tensor:
        segments = Segments(packed.lengths, kv_lengths or packed.lengths, causal=True, backend=self.backend)
        features_TC: Tensor = self.model(packed.hidden_TC, packed.ids_T3, segments, read, until)
        return features_TC


def _check_prefixes(
    prefixes: Sequence[KVContext | None], prompts: Sequence[TokenPrompt], num_layers: int
) -> None:
    for prefix, prompt in zip(prefixes, prompts, strict=True):
        if prefix and (missing := set(range(num_layers)) - set(prefix.layers)):
            raise ValueError(f"a prefix lacks layers {sorted(missing)}")
        if prefix and prefix.num_tokens >= len(prompt.tokens):
            raise ValueError("a prefix must be shorter than its prompt")


def _grow(caches: Sequence[KVCache]) -> Read:
    def read(layer: int, k_RKD: Tensor, v_RKD: Tensor) -> tuple[Tensor, Tensor]:
        grown = [cache.append(layer, k_RKD[i : i + 1], v_RKD[i : i + 1]) for i, cache in enumerate(caches)]
        return torch.cat([k for k, _ in grown]), torch.cat([v for _, v in grown])

    return read
