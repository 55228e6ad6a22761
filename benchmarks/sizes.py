"""Random-weight models of sizes between the shipped one and the real one."""

from typing import Any

MEDIUM: dict[str, Any] = {
    "family": "hbridge",
    "understanding": {
        "hidden_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 3072,
        "vocab_size": 1024,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "mrope_section": [8, 12, 12],
        "tie_word_embeddings": True,
        "image_token_id": 1020,
        "video_token_id": 1021,
        "vision_start_token_id": 1018,
        "vision_end_token_id": 1019,
        "eos_token_id": 1017,
        "vision": None,
    },
    "generation": {
        "patch_size": 2,
        "in_channels": 16,
        "hidden_size": 576,
        "num_layers": 9,
        "num_refiner_layers": 1,
        "num_attention_heads": 12,
        "num_kv_heads": 4,
        "multiple_of": 64,
        "axes_dim_rope": [16, 16, 16],
    },
    "prefix_layers": 1,
    "skip_first": 2,
    "skip_last": 2,
}
"""Hidden 768 and 576; the proportions of the full-size model: 4 of 8 pairs bridged."""

OMNIGEN2_MEDIUM: dict[str, Any] = {
    "family": "omnigen2",
    "transformer": {
        "hidden_size": 720,
        "num_layers": 16,
        "num_refiner_layers": 1,
        "num_attention_heads": 6,
        "num_kv_heads": 2,
        "text_feat_dim": 512,
    },
}
"""Hidden 720; the heads, their grouping and the share of the refiners are the full-size model's."""
