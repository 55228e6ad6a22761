"""From settings to a model in memory, and to the engine that runs it.

The networks' libraries are imported by what loads: a server whose engine is a process of its own needs none.
"""

from functools import partial
from pathlib import Path

from model.errors import ModelError
from service import logs
from service.about import read_about
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel, ModelCard
from service.engine.process import EngineProcess, WatchConfig
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
    import torch  # noqa: PLC0415

    from model.attention import Segments  # noqa: PLC0415
    from model.checkpoint import load, weights_hash  # noqa: PLC0415
    from model.registry import resolve  # noqa: PLC0415

    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise UnusableDevice(f"device {settings.device} is not usable here; set HBRIDGE_DEVICE=cpu")
    family = load(settings.model, device=settings.device, dtype=getattr(torch, settings.dtype))
    card = ModelCard(
        id=model_id(settings),
        capabilities=family.capabilities,
        weights_hash=weights_hash(settings.model),
        device=settings.device,
        dtype=settings.dtype,
        backend=Segments.own((1,)).backend,
        about=read_about(resolve(settings.model)),
    )
    return LoadedModel(card=card, family=family)


def load_apart(settings: Settings) -> LoadedModel:
    """Load the model in a process that is only the engine's, and so has not been told yet how to log."""
    logs.configure(settings.log_format, settings.log_level, has_content=settings.log_content)
    return load_model(settings)


def create_client(settings: Settings) -> Client:
    """Make the client of an engine as the settings say; nothing is loaded yet."""
    config = EngineConfig(
        max_waiting=settings.max_waiting,
        num_threads=settings.num_threads,
        max_memory_bytes=settings.max_memory_bytes,
        cost_folder=settings.cache_dir / "costs",
    )
    if settings.engine == "inline":
        return Client(InlineEngine(partial(load_model, settings), config), model_id=model_id(settings))
    watch = WatchConfig(
        max_load_seconds=settings.max_load_seconds,
        max_step_seconds=settings.max_step_seconds,
        max_pause_seconds=settings.max_restart_pause_seconds,
    )
    host = EngineProcess(partial(load_apart, settings), config, watch)
    return Client(host, model_id=model_id(settings))
