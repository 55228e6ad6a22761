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
TOY_AUTOENCODER: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [32, 32, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
TOY_EXPERT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "mrope_section": [2, 3, 3],
    "image_token_id": 506,
    "video_token_id": 507,
    "vision_start_token_id": 504,
    "vision_end_token_id": 505,
    "eos_token_id": 501,
    "vision": {
        "hidden_size": 32,
        "depth": 2,
        "num_heads": 2,
        "intermediate_size": 64,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "out_hidden_size": 64,
    },
}
TOY_TRANSFORMER: dict[str, Any] = {
    "in_channels": 4,
    "hidden_size": 48,
    "num_layers": 8,
    "num_refiner_layers": 1,
    "num_attention_heads": 4,
    "num_kv_heads": 2,
    "multiple_of": 16,
    "axes_dim_rope": [4, 4, 4],
}
TOYS: dict[str, dict[str, Any]] = {
    "hbridge": {
        "family": "hbridge",
        "understanding": TOY_EXPERT,
        "generation": TOY_TRANSFORMER,
        "prefix_layers": 2,
        "skip_first": 1,
        "skip_last": 1,
        "srt_count": 4,
        "vae": TOY_AUTOENCODER,
    },
    "omnigen2": {
        "family": "omnigen2",
        "transformer": {**TOY_TRANSFORMER, "text_feat_dim": 64},
        "mllm": TOY_EXPERT,
        "vae": TOY_AUTOENCODER,
    },
}
"""The tiny models of the specification: what is measured at full size runs through in milliseconds."""
