"""Where a recipe's configuration and its runs lie, and which of its stages to run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from torch import Tensor

from training.errors import TrainingRefused
from training.team import read_average

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True)
class Runs:
    """One recipe and the folder of its runs.

    Attributes:
        name: A folder of training/recipes, or a path to one.
        runs: Holds a folder of the recipe's name, and in it one for each stage.
        STAGES: In the order in which they run.
        ASIDE: Run only when asked for by name.
    """

    name: str
    runs: Path

    STAGES: ClassVar[tuple[str, ...]] = ()
    ASIDE: ClassVar[tuple[str, ...]] = ()

    def read(self, stage: str) -> dict[str, Any]:
        """Read the configuration file of a stage."""
        content: dict[str, Any] = yaml.safe_load((recipe_folder(self.name) / f"{stage}.yaml").read_text())
        return content

    def folder(self, stage: str) -> Path:
        """Return the folder of a stage's run."""
        return self.runs / Path(self.name).name / stage

    def average(self, stage: str) -> dict[str, Tensor]:
        """Return the averaged weights that a stage ended with.

        Raises:
            FileNotFoundError: The stage has not run.
        """
        return read_average(self.folder(stage))

    def run(self, stage: str) -> None:
        """Run one stage, or go on with it.

        Raises:
            ValueError: There is no such stage.
        """
        if stage not in (known := (*self.STAGES, *self.ASIDE)):
            raise ValueError(f"stage {stage!r} must be one of {', '.join(known)}")
        getattr(self, stage)()


def recipe_folder(name: str) -> Path:
    """Return the folder of a recipe's configuration files.

    Raises:
        TrainingRefused: There is none of this name.
    """
    folder = RECIPES / name
    if not any(folder.glob("*.yaml")):
        known = sorted(other.name for other in RECIPES.iterdir() if any(other.glob("*.yaml")))
        raise TrainingRefused(f"recipe {name!r} must be one of {', '.join(known)}, or a folder of YAML files")
    return folder
