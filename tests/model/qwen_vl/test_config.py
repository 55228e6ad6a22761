import json
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLConfig

from model.errors import BadCheckpoint
from model.qwen_vl.config import QwenVLConfig
from model.qwen_vl.expert import QwenVL

PUBLISHED = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "max_window_layers": 28,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 152064,
}


def test_our_spelling_survives_a_round_trip(golden_config: dict[str, Any]) -> None:
    config = QwenVLConfig.from_dict(golden_config["understanding"])
    assert QwenVLConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_published_spelling_reads_the_same() -> None:
    config = QwenVLConfig.from_dict(PUBLISHED)
    assert config.mrope_section == (16, 24, 24)
    assert config.head_dim == 128
    assert config.vision is not None
    assert config.vision.fullatt_block_indexes == (7, 15, 23, 31)


def test_a_nested_text_config_reads_the_same() -> None:
    nested = {name: PUBLISHED[name] for name in ("vision_config", "image_token_id", "architectures")}
    rest = {name: value for name, value in PUBLISHED.items() if name not in nested}
    nested["text_config"] = rest | {"eos_token_id": [151645, 151643]}
    assert QwenVLConfig.from_dict(nested) == QwenVLConfig.from_dict(PUBLISHED)


def test_what_the_library_saves_reads_the_same() -> None:
    saved = json.loads(Qwen2_5_VLConfig(**PUBLISHED).to_json_string())
    assert QwenVLConfig.from_dict(saved) == QwenVLConfig.from_dict(PUBLISHED)


def test_what_earlier_versions_of_the_library_saved_reads_the_same() -> None:
    vision = {"hidden_size": 1280, "in_chans": 3, "model_type": "qwen2_5_vl", "torch_dtype": "float32"}
    rope = {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"}
    text = {"_name_or_path": "a/b", "image_token_id": None, "sliding_window": None, "rope_scaling": rope}
    saved = PUBLISHED | {"vision_config": vision, "rope_scaling": rope, "text_config": text}
    assert QwenVLConfig.from_dict(saved) == QwenVLConfig.from_dict(PUBLISHED)


def test_all_problems_are_listed_at_once() -> None:
    wrong = PUBLISHED | {"hidden_act": "gelu", "colour": 1, "vision_config": {"depth": 2}}
    del wrong["vocab_size"]
    with pytest.raises(BadCheckpoint) as error:
        QwenVLConfig.from_dict(wrong)
    for problem in (
        "hidden_act must be 'silu'",
        "colour is unknown",
        "vocab_size is missing",
        "vision.hidden_size is missing",
    ):
        assert problem in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_attention_heads", 24),
        ("num_key_value_heads", 3),
        ("rope_scaling", {"mrope_section": [1, 2, 3]}),
        ("hidden_size", 7168),
        ("image_token_id", -1),
    ],
)
def test_sizes_that_disagree_are_refused(field: str, value: Any) -> None:
    with pytest.raises(BadCheckpoint):
        QwenVLConfig.from_dict(PUBLISHED | {field: value})


def test_the_published_size_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        expert = QwenVL(QwenVLConfig.from_dict(PUBLISHED))
    assert sum(weight.numel() for weight in expert.parameters()) == 8_292_166_656
