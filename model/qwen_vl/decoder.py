"""The understanding expert's language network over packed tokens.

It owns no cache and lays out no positions: a `Read` decides, layer by layer, which keys and values the
queries see. So one loop serves prefill, cached decoding, training and early stopping.

Shapes: T packed tokens, S packed keys, C width, H heads, K key heads, D head dim, 3 the axes t, h, w.
"""

from collections.abc import Callable

from torch import Tensor, nn

from model.attention import Segments, attend
from model.kernels.swiglu import gate
from model.layers import RMSNorm
from model.qwen_vl.config import QwenVLConfig
from model.rope import mrope_table, rotate_half

Rotation = tuple[Tensor, Tensor]
Read = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


def read_own(layer: int, k_TKD: Tensor, v_TKD: Tensor) -> tuple[Tensor, Tensor]:
    """See the packed tokens themselves and nothing else."""
    return k_TKD, v_TKD


class Attention(nn.Module):
    """Grouped-query attention with biases on q, k and v."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, kv_width)
        self.v_proj = nn.Linear(config.hidden_size, kv_width)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def keys_values(self, x_TC: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Return rotated keys and plain values, [T, K, D] each."""
        k_TKD = self.k_proj(x_TC).unflatten(-1, (-1, self.head_dim))
        return rotate_half(k_TKD, *rotation), self.v_proj(x_TC).unflatten(-1, (-1, self.head_dim))

    def forward(
        self, x_TC: Tensor, rotation: Rotation, kv: tuple[Tensor, Tensor], segments: Segments
    ) -> Tensor:
        """Let the tokens read the given keys and values."""
        q_THD = rotate_half(self.q_proj(x_TC).unflatten(-1, (-1, self.head_dim)), *rotation)
        mixed_TC: Tensor = self.o_proj(attend(q_THD, *kv, segments).flatten(1))
        return mixed_TC


class GatedMLP(nn.Module):
    """SwiGLU.

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_TC: Tensor) -> Tensor:
        """Map each token on its own."""
        out_TC: Tensor = self.down_proj(gate(self.gate_proj(x_TC), self.up_proj(x_TC)))
        return out_TC


class DecoderLayer(nn.Module):
    """Attention, then MLP, each after a norm."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(
        self,
        hidden_TC: Tensor,
        rotation: Rotation,
        segments: Segments,
        read: Read,
        index: int,
        *,
        only_kv: bool,
    ) -> Tensor:
        """Run the layer; with `only_kv`, stop once its keys and values are read."""
        normed_TC = self.input_layernorm(hidden_TC)
        kv = read(index, *self.self_attn.keys_values(normed_TC, rotation))
        if only_kv:
            return hidden_TC
        hidden_TC = hidden_TC + self.self_attn(normed_TC, rotation, kv, segments)
        out_TC: Tensor = hidden_TC + self.mlp(self.post_attention_layernorm(hidden_TC))
        return out_TC


class Decoder(nn.Module):
    """The stack of layers between embedding and head."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_TC: Tensor,
        ids_T3: Tensor,
        segments: Segments,
        read: Read = read_own,
        until: int | None = None,
    ) -> Tensor:
        """Run the layers over packed embeddings.

        Args:
            hidden_TC: Embedded tokens, images in place.
            ids_T3: Multimodal positions.
            segments: Which queries see which of the keys that `read` returns.
            read: Takes a layer's new keys and values; returns those that its queries see.
            until: Stop once this layer's keys and values are read; nothing after them is computed.

        Returns:
            Normed features [T, C]; with `until`, what entered that layer.
        """
        rotation = mrope_table(ids_T3, self.config.mrope_section, self.config.rope_theta)
        for index, layer in enumerate(self.layers):
            hidden_TC = layer(hidden_TC, rotation, segments, read, index, only_kv=index == until)
            if index == until:
                return hidden_TC
        out_TC: Tensor = self.norm(hidden_TC)
        return out_TC
