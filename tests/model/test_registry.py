from pathlib import Path

import pytest

from model import registry
from model.errors import BadCheckpoint
from model.registry import FAMILIES, family_name, resolve


def test_a_config_names_its_family() -> None:
    for name in FAMILIES:
        assert family_name({"family": name}) == name


def test_a_bridged_config_needs_no_name() -> None:
    assert family_name({"understanding": {}, "generation": {}}) == "hbridge"


@pytest.mark.parametrize("config", [{}, {"family": "poodle"}, {"understanding": {}}])
def test_other_configs_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(BadCheckpoint, match="must be one of hbridge"):
        family_name(config)


def test_a_config_of_another_kind_of_model_is_told_by_its_name() -> None:
    with pytest.raises(BadCheckpoint, match="its model_type is 'llama'"):
        family_name({"model_type": "llama"})


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path


def test_a_short_name_is_a_shipped_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hbridge-nano").mkdir()
    (tmp_path / "hbridge-nano/config.json").write_text("{}")
    monkeypatch.setattr(registry, "SHIPPED", tmp_path)
    assert resolve("hbridge-nano") == tmp_path / "hbridge-nano"
    assert resolve("omnigen2") == registry.PUBLISHED / "omnigen2"
    with pytest.raises(BadCheckpoint, match=r"hbridge-huge is no folder .*\(hbridge-nano\)"):
        resolve("hbridge-huge")
