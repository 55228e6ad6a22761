from pathlib import Path

import pytest

from service.engine.job import LoadedModel
from service.loading import load_model
from service.settings import Settings


@pytest.fixture(scope="session")
def tiny(model_folder: Path) -> LoadedModel:
    """A real model of a few thousand weights, in memory."""
    return load_model(Settings(model=str(model_folder)))
