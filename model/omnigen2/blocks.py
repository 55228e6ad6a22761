"""Blocks of the OmniGen2 transformer over packed tokens; the bridged network uses them too.

Shapes: B segments, M different flow times, T packed tokens, h width, e time width, H query heads, K key
heads, D head dim, E half of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.attention import Backend, Segments, Sight, attend
from model.kernels.head_rotation import norm_rotate_pairs
from model.kernels.modulated_norm import norm_add, norm_scale, scale
from model.layers import GatedFeedForward, RMSNorm, Sharing
from model.omnigen2.config import QK_NORM_EPS, OmniGen2Config
from model.rope import axial_table

KEPT_STREAMS = 8
"""Layouts of each kind whose tables are kept: a step mostly has the layout of the step before."""


@dataclass(frozen=True, slots=True)
class Moments:
    """The flow times of rows or segments, each different one embedded once.

    Attributes:
        condition_Me: silu of their embeddings, in the order in which they are first met.
        places: Which of them each row or segment has.
    """

    condition_Me: Tensor
    places: tuple[int, ...]

    def of(self, rows: Sequence[int]) -> "Moments":
        """Return those of some rows."""
        places = [self.places[row] for row in rows]
        sharing = Sharing.of(places)
        if (met := sharing.pick(places)) == list(range(len(self.condition_Me))):
            return Moments(self.condition_Me, sharing.places)
        met_M = torch.tensor(met, device=self.condition_Me.device)
        return Moments(self.condition_Me.index_select(0, met_M), sharing.places)


@dataclass(frozen=True, slots=True)
class Stream:
    """Packed tokens on their way through blocks: who sees whom, whose time modulates whom, where they stand.

    Attributes:
        segments: Each segment attends to itself and has one modulation.
        place_T: Which modulation each token has; None when each has as many tokens, in order.
        cos_TE: Rotation table of the tokens; sin_TE likewise.
    """

    segments: Sight
    place_T: Tensor | None
    cos_TE: Tensor
    sin_TE: Tensor

    @classmethod
    def of(
        cls,
        lengths: tuple[int, ...],
        ids_T3: Tensor,
        config: OmniGen2Config,
        backend: Backend,
        *,
        places: tuple[int, ...] | None = None,
    ) -> "Stream":
        """Prepare everything that the blocks of one call share, on the device of the ids.

        Args:
            lengths: Tokens of each segment.
            ids_T3: Position ids.
            config: Of the network that the tokens go through.
            backend: Of the attention.
            places: Which modulation each segment has, as in Moments; one of its own when left out.
        """
        own = tuple(range(len(lengths)))
        places = own if places is None else places
        place_T = None
        if any(places) and (places != own or min(lengths) < max(lengths)):
            place_B, repeats_B = (torch.tensor(each, device=ids_T3.device) for each in (places, lengths))
            place_T = torch.repeat_interleave(place_B, repeats_B, output_size=sum(lengths))
        table = axial_table(ids_T3, config.axes_dim_rope, config.rope_theta)
        return cls(Segments.own(lengths, backend=backend), place_T, *table)

    def norm(self, norm: RMSNorm, x_Th: Tensor, factor_Mh: Tensor) -> Tensor:
        """Normalise every token and multiply it by the factor of its time."""
        return norm_scale(norm, x_Th, factor_Mh, self.place_T)

    def norm_add(self, norm: RMSNorm, x_Th: Tensor, factor_Mh: Tensor, around_Th: Tensor) -> Tensor:
        """Do the same and add it to what went around."""
        return norm_add(norm, x_Th, around_Th, factor_Mh, self.place_T)

    def scale(self, x_Th: Tensor, factor_Mh: Tensor) -> Tensor:
        """Multiply every token by the factor of its time."""
        return scale(x_Th, factor_Mh, self.place_T)


class Attention(nn.Module):
    """Grouped attention with normalised queries and keys, rotated in interleaved pairs."""

    def __init__(self, config: OmniGen2Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.to_q = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.to_k = nn.Linear(config.hidden_size, config.kv_width, bias=False)
        self.to_v = nn.Linear(config.hidden_size, config.kv_width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(config.hidden_size, config.hidden_size, bias=False)])
        self.norm_q = RMSNorm(config.head_dim, eps=QK_NORM_EPS)
        self.norm_k = RMSNorm(config.head_dim, eps=QK_NORM_EPS)

    def project(self, u_Th: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised queries [T, H, D] and keys [T, K, D], and values [T, K, D], not rotated."""
        q_THD, k_TKD, v_TKD = self._heads(u_Th)
        return norm_scale(self.norm_q, q_THD), norm_scale(self.norm_k, k_TKD), v_TKD

    def _heads(self, u_Th: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_THD, k_TKD, v_TKD = (
            linear(u_Th).unflatten(-1, (-1, self.head_dim)) for linear in (self.to_q, self.to_k, self.to_v)
        )
        return q_THD, k_TKD, v_TKD

    def forward(self, u_Th: Tensor, stream: Stream) -> Tensor:
        """Attend within the stream's segments."""
        q_THD, k_TKD, v_TKD = self._heads(u_Th)
        q_THD = norm_rotate_pairs(self.norm_q, q_THD, stream.cos_TE, stream.sin_TE)
        k_TKD = norm_rotate_pairs(self.norm_k, k_TKD, stream.cos_TE, stream.sin_TE)
        out_Th: Tensor = self.to_out[0](attend(q_THD, k_TKD, v_TKD, stream.segments).flatten(1))
        return out_Th


Mix = Callable[[Attention, Tensor], Tensor]


class Modulation(nn.Module):
    """A block's first norm and the linear layer that makes its scales and gates from the time."""

    def __init__(self, config: OmniGen2Config) -> None:
        super().__init__()
        self.linear = nn.Linear(config.time_width, 4 * config.hidden_size)
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, condition_Me: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return scale and gate of the attention half, then of the feed-forward half, ready to multiply."""
        scale_1, gate_1, scale_2, gate_2 = self.linear(condition_Me).chunk(4, -1)
        return 1 + scale_1, gate_1.tanh(), 1 + scale_2, gate_2.tanh()


class ModulatedBlock(nn.Module):
    """Attention and feed-forward with sandwich norms, scaled and gated by the flow time.

    Source: Lumina-Image 2.0, Qin et al. 2025, arXiv:2503.21758, as OmniGen2 has it.
    """

    def __init__(self, config: OmniGen2Config) -> None:
        super().__init__()
        self.norm1 = Modulation(config)
        self.attn = Attention(config)
        self.norm2 = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.ffn_norm1 = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.feed_forward = GatedFeedForward(config.hidden_size, config.ffn_width)
        self.ffn_norm2 = RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, x_Th: Tensor, condition_Me: Tensor, stream: Stream, mix: Mix | None = None) -> Tensor:
        """Pass packed tokens through.

        Args:
            x_Th: Tokens.
            condition_Me: silu of the embeddings of all different times.
            stream: Their packing.
            mix: What to do with the attention layer and its input; None attends within the stream.
        """
        scale_1, gate_1, scale_2, gate_2 = self.norm1(condition_Me)
        u_Th = stream.norm(self.norm1.norm, x_Th, scale_1)
        mixed_Th = self.attn(u_Th, stream) if mix is None else mix(self.attn, u_Th)
        x_Th = stream.norm_add(self.norm2, mixed_Th, gate_1, x_Th)
        fed_Th = self.feed_forward(stream.norm(self.ffn_norm1, x_Th, scale_2))
        return stream.norm_add(self.ffn_norm2, fed_Th, gate_2, x_Th)


class PlainBlock(nn.Module):
    """The same block without time: scales and gates are 1."""

    def __init__(self, config: OmniGen2Config) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.ffn_norm1 = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.feed_forward = GatedFeedForward(config.hidden_size, config.ffn_width)
        self.ffn_norm2 = RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, x_Th: Tensor, stream: Stream) -> Tensor:
        """Pass packed tokens through."""
        x_Th = norm_add(self.norm2, self.attn(norm_scale(self.norm1, x_Th), stream), x_Th)
        fed_Th = self.feed_forward(norm_scale(self.ffn_norm1, x_Th))
        return norm_add(self.ffn_norm2, fed_Th, x_Th)


class OutputNorm(nn.Module):
    """The last norm, scaled by the flow time, and the projection to patches."""

    def __init__(self, config: OmniGen2Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6, elementwise_affine=False)
        self.linear_1 = nn.Linear(config.time_width, config.hidden_size)
        self.linear_2 = nn.Linear(config.hidden_size, config.patch_channels_out)

    def forward(self, x_Th: Tensor, condition_Me: Tensor, stream: Stream) -> Tensor:
        """Return patches [T, Z]."""
        patches_TZ: Tensor = self.linear_2(stream.scale(self.norm(x_Th), 1 + self.linear_1(condition_Me)))
        return patches_TZ
