"""The vision tower: transformers' Qwen2.5-VL network with our attention and a rotation that holds no buffers.

Its windows and images become segments of one packed attention call per layer; its rotation survives being
built without memory and being cast to a low precision.

Shapes: P patches, H heads, D head dim, C width, E half of the head dim.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from model.attention import Backend, Segments, attend
from model.qwen_vl.config import VisionConfig
from model.rope import frequencies, rotate_half

THETA = 10000.0


class VisionAttention(nn.Module):
    """Attention within windows or whole images, whichever the lengths describe."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.backend: Backend = "sdpa"
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, x_PC: Tensor, cu_seqlens: Tensor, position_embeddings: tuple[Tensor, Tensor], **unused: Any
    ) -> Tensor:
        """Attend within the stretches between `cu_seqlens`; names are those the library calls with."""
        q_PHD, k_PHD, v_PHD = self.qkv(x_PC).view(x_PC.shape[0], 3, self.num_heads, -1).unbind(1)
        segments = Segments.own(tuple(cu_seqlens.diff().tolist()), backend=self.backend)
        q_PHD, k_PHD = rotate_half(q_PHD, *position_embeddings), rotate_half(k_PHD, *position_embeddings)
        out_PC: Tensor = self.proj(attend(q_PHD, k_PHD, v_PHD, segments).flatten(1))
        return out_PC


class VisionRotation(nn.Module):
    """Two-dimensional rotation: half of the frequencies follow the row, half the column."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.num_frequencies = head_dim // 4

    def forward(self, x_PC: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Tabulate cos and sin [P, D] for row and column ids [P, 2]."""
        steps = frequencies(self.num_frequencies, THETA, x_PC.device)
        angles_PE = (position_ids.to(x_PC.device)[..., None].float() * steps).flatten(1)
        angles_PD = torch.cat([angles_PE, angles_PE], -1)
        return angles_PD.cos(), angles_PD.sin()


def build_vision(config: VisionConfig) -> nn.Module:
    """Build the tower; it maps (patches_PE, grid) to one feature per merged cell in `pooler_output`."""
    sizes = {name: getattr(config, name) for name in config.__slots__ if not name.endswith("_pixels")}
    tower: nn.Module = Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(**sizes))
    tower.rotary_pos_emb = VisionRotation(config.hidden_size // config.num_heads)
    for block in tower.get_submodule("blocks").children():
        block.attn = VisionAttention(config)
    return tower
