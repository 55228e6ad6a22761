from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from model.names import Names
from model.qwen_vl.config import QwenVLConfig
from model.qwen_vl.expert import QwenVL
from model.qwen_vl.names import QWEN_VL

NAMES = Names(parts={"und": QWEN_VL})
SHAPE = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 8,
    "vocab_size": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"mrope_section": [1, 1, 0], "type": "mrope"},
    "vision_config": {"hidden_size": 8, "depth": 2, "num_heads": 2, "out_hidden_size": 8},
    "image_token_id": 1,
    "video_token_id": 2,
    "vision_start_token_id": 3,
    "vision_end_token_id": 4,
    "eos_token_id": 5,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    "published",
    [
        "model.layers.1.mlp.up_proj.weight",
        "model.language_model.layers.1.mlp.up_proj.weight",
        "language_model.layers.1.mlp.up_proj.weight",
    ],
)
def test_every_published_naming_of_the_decoder_is_read(published: str) -> None:
    assert NAMES.ours(f"und.{published}") == "und.model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("published", ["visual.merger.ln_q.weight", "model.visual.merger.ln_q.weight"])
def test_every_published_naming_of_the_tower_is_read(published: str) -> None:
    assert NAMES.ours(f"und.{published}") == "und.visual.merger.ln_q.weight"


def test_what_the_installed_library_calls_its_tensors_becomes_ours() -> None:
    with torch.device("meta"):
        theirs = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**SHAPE)).state_dict()
        ours = QwenVL(QwenVLConfig.from_dict(SHAPE)).state_dict()
    renamed: dict[str, Any] = {NAMES.ours(f"und.{name}"): tensor for name, tensor in theirs.items()}
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        f"und.{name}": tensor.shape for name, tensor in ours.items()
    }


def test_a_tied_head_and_tables_of_rotations_are_spare() -> None:
    assert NAMES.is_spare("und.lm_head.weight")
    assert NAMES.is_spare("und.model.layers.0.self_attn.rotary_emb.inv_freq")
    assert not NAMES.is_spare("und.model.norm.weight")
