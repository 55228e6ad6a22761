"""Which class loads which checkpoint, and short names of the shipped ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from model.errors import BadCheckpoint
from model.family import Family
from model.hbridge.family import HBridge
from model.names import Names
from model.omnigen2.family import OmniGen2

SHIPPED = Path(__file__).parent / "checkpoints"
PUBLISHED = Path(__file__).parent / "published"


class LoadableFamily(Family, Protocol):
    """A family that can be built from a config and filled with weights.

    Attributes:
        names: What checkpoints may call its tensors.
    """

    names: Names

    @property
    def module(self) -> nn.Module:
        """All weights, under the checkpoint's names."""
        ...

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path | None) -> "LoadableFamily":
        """Build from config.json's content and the tokenizer in the folder, weights unread."""
        ...


FAMILIES: dict[str, type[LoadableFamily]] = {"hbridge": HBridge, "omnigen2": OmniGen2}


def resolve(name_or_folder: str | Path) -> Path:
    """Return the folder of a checkpoint given as a folder or a short name.

    Short names are those of shipped checkpoints, and of published models of which only the configs are here.

    Raises:
        BadCheckpoint: It is neither.
    """
    for folder in (Path(name_or_folder), SHIPPED / name_or_folder, PUBLISHED / name_or_folder):
        if folder.is_dir():
            return folder
    shipped = sorted(file.parent.name for file in SHIPPED.glob("*/config.json"))
    raise BadCheckpoint(f"{name_or_folder} is no folder and no shipped checkpoint ({', '.join(shipped)})")


def family_name(config: Mapping[str, Any]) -> str:
    """Return the family that a config belongs to.

    Raises:
        BadCheckpoint: It is not one that can be loaded.
    """
    bridged = {"understanding", "generation"} <= config.keys()
    name = config.get("family", "hbridge" if bridged else None)
    if name not in FAMILIES:
        foreign = f"; its model_type is {config['model_type']!r}" if "model_type" in config else ""
        raise BadCheckpoint(f"config.family {name!r} must be one of {', '.join(FAMILIES)}{foreign}")
    return str(name)
