"""What a checkpoint says about itself for people, in `about.json` beside its weights."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import BadCheckpoint
from model.prompt import Task

WORD = re.compile(r"[^\W\d_]+")


class About(BaseModel):
    """Words that a model does well with, and the words that it knows.

    Attributes:
        examples: By task, to begin with.
        words: All that its training had, in lower case; None if it had too many to list.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    examples: dict[Task, list[str]] = Field(default_factory=dict)
    words: frozenset[str] | None = None

    def unknown(self, *texts: str) -> list[str]:
        """Return the words that the model never saw, each once, as they come."""
        if self.words is None:
            return []
        found = [word.lower() for text in texts for word in WORD.findall(text)]
        return [word for word in dict.fromkeys(found) if word not in self.words]


def read_about(folder: Path) -> About:
    """Read what a checkpoint says about itself, which may be nothing.

    Raises:
        BadCheckpoint: Its file is not understood.
    """
    file = folder / "about.json"
    if not file.is_file():
        return About()
    try:
        return About.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise BadCheckpoint(f"{file}: {error}") from error
