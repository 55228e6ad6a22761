from typing import Any

import pytest

from model.errors import BadCheckpoint
from model.omnigen2.config import OmniGen2CheckpointConfig, OmniGen2Config


@pytest.mark.parametrize(
    ("sizes", "width"),
    [
        ({}, 10240),
        ({"hidden_size": 96, "multiple_of": 100, "num_attention_heads": 6, "num_kv_heads": 2}, 400),
        ({"multiple_of": 1, "ffn_dim_multiplier": 0.5}, 5040),
        ({"ffn_dim_multiplier": 0.5}, 5120),
    ],
)
def test_the_feed_forward_width_is_four_times_stretched_and_rounded_up(
    sizes: dict[str, Any], width: int
) -> None:
    assert OmniGen2Config(**sizes).ffn_width == width


def test_every_problem_of_a_config_is_listed() -> None:
    with pytest.raises(BadCheckpoint) as error:
        OmniGen2Config.from_dict(
            {"poodle": 1, "num_layers": "many", "num_kv_heads": 5, "axes_dim_rope": [60, 59, 1]}
        )
    for part in ("poodle is unknown", "num_layers 'many'", "num_kv_heads 5", "axes_dim_rope"):
        assert part in str(error.value)


def test_out_channels_default_to_in_channels() -> None:
    assert OmniGen2Config().patch_channels_out == OmniGen2Config().patch_channels == 64
    assert OmniGen2Config(out_channels=8).patch_channels_out == 32


def test_a_checkpoint_has_the_parts_of_its_folders() -> None:
    config = OmniGen2CheckpointConfig.from_dict(
        {
            "family": "omnigen2",
            "transformer": {"_class_name": "T", "num_layers": 2},
            "vae": {"latent_channels": 16},
        }
    )
    assert config.transformer.num_layers == 2
    assert config.vae == {"latent_channels": 16}
    assert config.mllm is None
    assert OmniGen2CheckpointConfig.from_dict(config.to_dict()) == config


def test_a_scheduler_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(BadCheckpoint, match=r"scheduler\.poodle is unknown"):
        OmniGen2CheckpointConfig.from_dict({"transformer": {}, "scheduler": {"poodle": 1}})


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(BadCheckpoint, match="poodle"):
        OmniGen2CheckpointConfig.from_dict({"transformer": {}, "poodle": {}})
