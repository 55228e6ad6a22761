"""The bridged attention: generation queries, keys and values carried into the understanding expert's space.

Shapes: T packed generation tokens, U packed understanding tokens, S packed keys, h generation width,
H query heads, K key heads, D head dim, B segments; heads are the understanding expert's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model.attention import Segments, Sight, Spread, attend_joined, join
from model.bounds import Bounds, BoundsBackend, padded_starts
from model.hbridge.config import HBridgeConfig
from model.kernels.head_rotation import norm_rotate_half
from model.layers import RMSNorm
from model.omnigen2.blocks import Attention, ModulatedBlock, Stream
from model.omnigen2.stack import Bucket, Stack, StackInputs, Transform, pass_block, unchanged


@dataclass(frozen=True, slots=True)
class BridgeStream:
    """What all bridged layers of one call share.

    Attributes:
        segments: Each row's generation tokens see its understanding tokens, which lie apart, and then
            themselves.
        cos_TD: Rotation table of the generation tokens; sin_TD likewise.
    """

    segments: Sight
    cos_TD: Tensor
    sin_TD: Tensor


@dataclass(frozen=True, slots=True)
class BridgeSide:
    """What the bridged layers of one call read beside their own tokens.

    Attributes:
        stream: Packing and rotation.
        keys: [U, K, D] of each bridged pair in rising order, already rotated.
        values: [U, K, D] of each bridged pair.
    """

    stream: BridgeStream
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def num_before(self) -> int:
        """Understanding tokens of all rows."""
        return len(self.keys[0]) if self.keys else 0

    def tensors(self, bucket: Bucket) -> dict[str, Tensor]:
        """Name all that is read; padding has no understanding tokens."""
        segments, cos_TD = self.stream.segments, self.stream.cos_TD
        assert isinstance(segments, Segments), "inputs over buffers are not padded again"
        named = {f"keys.{i}": k_UKD for i, k_UKD in enumerate(self.keys)}
        named |= {f"values.{i}": v_UKD for i, v_UKD in enumerate(self.values)}
        lengths, end = segments.before_lengths, self.num_before
        return named | {
            "bridge_cos": cos_TD,
            "bridge_sin": self.stream.sin_TD,
            "before_starts": padded_starts(lengths, bucket.rows, end, cos_TD.device),
        }

    def over(self, buffers: Mapping[str, Tensor], bucket: Bucket, backend: BoundsBackend) -> "BridgeSide":
        """Return the same over buffers."""
        starts, most = buffers["starts"], bucket.tokens
        # Of the kernels that read bounds, ours alone reads keys in two places.
        joined: BoundsBackend = "plain" if backend == "plain" else "triton"
        bounds = Bounds(starts, starts, most, most, backend=joined, before_starts_B=buffers["before_starts"])
        return BridgeSide(
            BridgeStream(bounds, buffers["bridge_cos"], buffers["bridge_sin"]),
            tuple(buffers[f"keys.{i}"] for i in range(len(self.keys))),
            tuple(buffers[f"values.{i}"] for i in range(len(self.values))),
        )

    def split(self, spread: Callable[[Segments], Spread], own: Callable[[Tensor], Tensor]) -> "BridgeSide":
        """Return the same for one of the processes that tokens are spread over."""
        segments = self.stream.segments
        assert isinstance(segments, Segments), "what is split is not split again"
        table = own(self.stream.cos_TD), own(self.stream.sin_TD)
        return BridgeSide(BridgeStream(spread(segments), *table), self.keys, self.values)


class Bridge(nn.Module):
    """QKV-Linear of one pair: into the understanding space, attention there, and back.

    Source: HBridge, arXiv:2511.20520, abstract and figures; order and norms are this project's.
    """

    def __init__(self, config: HBridgeConfig) -> None:
        super().__init__()
        und, gen, bias = config.understanding, config.generation, config.bridge_bias
        kv_width = und.num_key_value_heads * und.head_dim
        self.head_dim = und.head_dim
        self.q_linear = nn.Linear(gen.hidden_size, und.hidden_size, bias=bias)
        self.k_linear = nn.Linear(gen.kv_width, kv_width, bias=bias)
        self.v_linear = nn.Linear(gen.kv_width, kv_width, bias=bias)
        self.o_linear = nn.Linear(und.hidden_size, gen.hidden_size, bias=bias)
        has_norm = config.bridge_post_norm
        self.norm_q = RMSNorm(und.head_dim, eps=gen.norm_eps) if has_norm else nn.Identity()
        self.norm_k = RMSNorm(und.head_dim, eps=gen.norm_eps) if has_norm else nn.Identity()

    def project(
        self, attention: Attention, u_Th: Tensor, stream: BridgeStream
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries [T, H, D] and keys [T, K, D], and values [T, K, D]."""
        q_THD, k_TKD, v_TKD = (
            linear(projected.flatten(1)).unflatten(-1, (-1, self.head_dim))
            for linear, projected in zip(
                (self.q_linear, self.k_linear, self.v_linear), attention.project(u_Th), strict=True
            )
        )
        q_THD = norm_rotate_half(self.norm_q, q_THD, stream.cos_TD, stream.sin_TD)
        k_TKD = norm_rotate_half(self.norm_k, k_TKD, stream.cos_TD, stream.sin_TD)
        return q_THD, k_TKD, v_TKD

    def forward(
        self, attention: Attention, u_Th: Tensor, stream: BridgeStream, und_UKD: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Attend over both sides.

        Args:
            attention: The generation layer's own, for its projections.
            u_Th: Its input.
            stream: Packing and rotation.
            und_UKD: The understanding layer's keys and values.
        """
        q_THD, k_TKD, v_TKD = self.project(attention, u_Th, stream)
        before = und_UKD[0].to(k_TKD.dtype), und_UKD[1].to(v_TKD.dtype)
        mixed_Th = self.o_linear(attend_joined(q_THD, (k_TKD, v_TKD), before, stream.segments).flatten(1))
        out_Th: Tensor = attention.to_out[0](mixed_Th)
        return out_Th

    @torch.no_grad()
    def understanding_mass(
        self, attention: Attention, u_Th: Tensor, stream: BridgeStream, und_UKD: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return the share of attention that falls on understanding keys, as a mean over queries and heads.

        Computed plainly, row by row: for logs, not for use in every step.
        """
        segments = stream.segments
        assert isinstance(segments, Segments), "rows must be known one by one"
        q_THD, k_TKD, _ = self.project(attention, u_Th, stream)
        k_SKD = join(und_UKD[0].to(k_TKD.dtype), k_TKD, segments)
        k_SHD = k_SKD.repeat_interleave(q_THD.shape[1] // k_TKD.shape[1], 1)
        queries = torch.split(q_THD.float(), list(segments.q_lengths))
        keys = torch.split(k_SHD.float(), list(segments.kv_lengths))
        masses = []
        for q_LHD, k_NHD, num_und in zip(queries, keys, segments.before_lengths, strict=True):
            scores_HLN = torch.einsum("lhd,nhd->hln", q_LHD, k_NHD) * self.head_dim**-0.5
            masses.append(scores_HLN.softmax(-1)[..., :num_und].sum(-1).mean())
        return torch.stack(masses).mean()


def pass_bridged(
    block: ModulatedBlock,
    bridge: Bridge,
    x_Th: Tensor,
    condition_Me: Tensor,
    *,
    streams: tuple[Stream, BridgeStream],
    und_UKD: tuple[Tensor, Tensor],
    masses: list[Tensor] | None = None,
) -> Tensor:
    """Pass tokens through a block whose attention is bridged; what a compiler takes as one."""
    stream, bridge_stream = streams

    def mix(attention: Attention, u_Th: Tensor) -> Tensor:
        if masses is not None:
            masses.append(bridge.understanding_mass(attention, u_Th, bridge_stream, und_UKD))
        mixed_Th: Tensor = bridge(attention, u_Th, bridge_stream, und_UKD)
        return mixed_Th

    passed_Th: Tensor = block(x_Th, condition_Me, stream, mix)
    return passed_Th


class BridgedStack(Stack):
    """Blocks of which some are bridged.

    Attributes:
        blocks: Each with its bridge and the bridge's place among all; None is not bridged.
        masses: Takes each bridge's share of attention on understanding keys; None measures none.
    """

    def __init__(
        self,
        name: str,
        blocks: Sequence[tuple[ModulatedBlock, Bridge | None, int]],
        masses: list[Tensor] | None = None,
    ) -> None:
        super().__init__(name, blocks)
        self.masses = masses

    def __call__(self, inputs: StackInputs, transform: Transform = unchanged) -> Tensor:
        """Pass tokens through all blocks, as Stack."""
        own, bridged, x_Th = transform(pass_block), transform(pass_bridged), inputs.x_Th
        side = cast(BridgeSide, inputs.side)
        for block, bridge, place in self.blocks:
            if bridge is None:
                x_Th = own(block, x_Th, inputs.condition_Me, inputs.stream)
                continue
            read = {
                "streams": (inputs.stream, side.stream),
                "und_UKD": (side.keys[place], side.values[place]),
                "masses": self.masses,
            }
            x_Th = bridged(block, bridge, x_Th, inputs.condition_Me, **read)
        return x_Th
