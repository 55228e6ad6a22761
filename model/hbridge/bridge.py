"""The bridged attention: generation queries, keys and values carried into the understanding expert's space.

Shapes: T packed generation tokens, U packed understanding tokens, S packed keys, h generation width,
H query heads, K key heads, D head dim, B segments; heads are the understanding expert's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.attention import Segments, attend_joined, join
from model.bounds import Bounds
from model.hbridge.config import HBridgeConfig
from model.kernels.head_rotation import norm_rotate_half
from model.layers import RMSNorm
from model.omnigen2.blocks import Attention


@dataclass(frozen=True, slots=True)
class BridgeStream:
    """What all bridged layers of one call share.

    Attributes:
        segments: Each row's generation tokens see its understanding tokens, which lie apart, and then
            themselves.
        cos_TD: Rotation table of the generation tokens; sin_TD likewise.
    """

    segments: Segments | Bounds
    cos_TD: Tensor
    sin_TD: Tensor


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
