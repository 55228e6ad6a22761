"""From settings to a model in memory, and to the engine that runs it."""

from functools import partial
from pathlib import Path

import torch

from model.attention import Segments
from model.checkpoint import load, weights_hash
from model.errors import ModelError
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.job import LoadedModel
from service.settings import Settings


class UnusableDevice(ModelError):
    """The device that was asked for is not there."""


def model_id(settings: Settings) -> str:
    """Return the model's name on the wire: the short name, or the folder's."""
    return Path(settings.model).resolve().name


def load_model(settings: Settings) -> LoadedModel:
    """Load the model that the settings name.

    Raises:
        BadCheckpoint: It cannot be loaded; lists why.
        UnusableDevice: There is no such device here.
    """
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise UnusableDevice(f"device {settings.device} is not usable here; set HBRIDGE_DEVICE=cpu")
    family = load(settings.model, device=settings.device, dtype=getattr(torch, settings.dtype))
    return LoadedModel(
        id=model_id(settings),
        family=family,
        weights_hash=weights_hash(settings.model),
        device=settings.device,
        dtype=settings.dtype,
        backend=Segments.own((1,)).backend,
    )


def create_client(settings: Settings) -> Client:
    """Make the client of an engine as the settings say; nothing is loaded yet."""
    config = EngineConfig(max_waiting=settings.max_waiting, num_threads=settings.num_threads)
    return Client(partial(load_model, settings), config, model_id=model_id(settings))
