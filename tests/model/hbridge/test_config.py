import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.errors import BadCheckpoint
from model.hbridge.config import PROMPT_TEMPLATE, HBridgeConfig

RECIPES = Path(__file__).parents[3] / "training/recipes"


def changed(config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Change fields; `generation__num_layers` is num_layers of generation."""
    config = deepcopy(config)
    for name, value in fields.items():
        *path, last = name.split("__")
        place = config
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return config


def test_pairs_are_the_middle_understanding_layers(config: HBridgeConfig) -> None:
    assert list(config.pairs) == [1, 2, 3, 4]
    assert list(replace(config, skip_first=2, skip_last=3).pairs) == [2]
    assert list(replace(config, skip_first=6, skip_last=0).pairs) == []


def test_decisions_have_the_defaults_of_the_specification(golden_config: dict[str, Any]) -> None:
    und = golden_config["understanding"] | {"num_hidden_layers": 28}
    config = HBridgeConfig.from_dict({"understanding": und, "generation": {}})
    assert (config.prefix_layers, config.skip_first, config.skip_last, config.srt_count) == (4, 6, 6, 16)
    assert list(config.pairs) == list(range(6, 22))
    assert (config.prefix_scope, config.srt_position, config.bridge_bias) == ("all", "origin", False)
    assert config.sampler.steps == 50
    assert config.limits.max_pixels == 1024**2
    assert config.size_step == 16
    assert config.prompt_template == PROMPT_TEMPLATE


def test_what_is_written_reads_back(golden_config: dict[str, Any]) -> None:
    given = changed(golden_config, family="hbridge", learned_positions=True, limits__default_size=[64, 96])
    config = HBridgeConfig.from_dict(given)
    assert HBridgeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("poodle", 1, "config.poodle is unknown"),
        ("generation__poodle", 1, "generation.poodle is unknown"),
        ("generation__rope_theta", 1.0, "generation.rope_theta does not belong there"),
        ("sampler__poodle", 1, "sampler.poodle is unknown"),
        ("limits", 3, "config.limits 3 is not an object"),
        ("understanding__poodle", 1, "poodle"),
        ("und_reads_gen", True, "und_reads_gen True"),
        ("gen_order", "noise_ref", "gen_order 'noise_ref'"),
        ("bridge_rope", "1d", "bridge_rope '1d'"),
        ("srt_position", "end", "srt_position 'end'"),
        ("prefix_layers", 3, "understanding has 6 layers"),
        ("skip_first", 6, "skip_first 6 and skip_last 1"),
        ("srt_count", 0, "srt_count"),
        ("prompt_template", "draw", "prompt_template must have {prompt}"),
        ("vae", {"latent_channels": 16}, "vae.latent_channels 16 must be generation.in_channels 4"),
        ("limits__max_references", 6, "limits.max_references 6 must be 0 to 5"),
    ],
)
def test_what_is_unknown_or_does_not_fit_is_told(
    golden_config: dict[str, Any], field: str, value: Any, told: str
) -> None:
    with pytest.raises(BadCheckpoint) as error:
        HBridgeConfig.from_dict(changed(golden_config, **{field: value}))
    assert told in str(error.value)


def test_all_problems_are_told_at_once(golden_config: dict[str, Any]) -> None:
    wrong = changed(golden_config, poodle=1, generation__poodle=1, sampler__grid="cosine", srt_position="end")
    del wrong["understanding"]
    with pytest.raises(BadCheckpoint) as error:
        HBridgeConfig.from_dict(wrong)
    for part in (
        "config.poodle",
        "generation.poodle",
        "sampler.grid",
        "srt_position",
        "understanding is missing",
    ):
        assert part in str(error.value)


def test_learned_positions_must_reach_the_longest_side(golden_config: dict[str, Any]) -> None:
    given = {"learned_positions": True, "max_learned_positions": 16, "limits__max_side": 256}
    HBridgeConfig.from_dict(changed(golden_config, **given, limits__max_reference_side=256))
    with pytest.raises(BadCheckpoint, match="max_learned_positions of at least 17"):
        HBridgeConfig.from_dict(changed(golden_config, **given, limits__max_reference_side=272))
