"""From settings to a model in memory, and to the engine that runs it.

The networks' libraries are imported by what loads: a server whose engine is a process of its own needs none.
"""

import logging
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter

from model.errors import BadCheckpoint
from model.stored_tensor import OnProgress
from service import logs
from service.about import read_about
from service.devices import check_devices, threads_each
from service.engine.client import Client, Host
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel, ModelCard
from service.engine.process import EngineProcess, WatchConfig
from service.hub import locate, short_name
from service.settings import Settings

RANDOM_SEED = 0
LOG_SECONDS = 5.0

log = logging.getLogger(__name__)


class ProgressLog:
    """Logs every few seconds how much of a model is read."""

    def __init__(self, seconds: float = LOG_SECONDS) -> None:
        self._seconds = seconds
        self._due = monotonic() + seconds

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        """Log it, unless it is not due."""
        if monotonic() >= self._due:
            self._due = monotonic() + self._seconds
            log.info("loading", extra={"percent": 100 * done_bytes // total_bytes, "bytes": total_bytes})


def model_id(settings: Settings) -> str:
    """Return the model's name on the wire."""
    return short_name(settings.model)


def load_model(settings: Settings, on_progress: OnProgress | None = None) -> LoadedModel:
    """Load the model that the settings name.

    Args:
        on_progress: Called with the bytes that are read and with those that there are; None logs them now
            and then.

    Raises:
        BadCheckpoint: It cannot be loaded; lists why.
        MissingCapability: The attention backend that is asked for cannot be used here.
        UnusableDevice: There is no such device here, or there are too few.
    """
    import torch  # noqa: PLC0415

    from model.checkpoint import build_random, load, random_hash, read_config, weights_hash  # noqa: PLC0415
    from model.quantize import check_scheme, quantize  # noqa: PLC0415
    from model.registry import resolve  # noqa: PLC0415
    from service.acceleration import accelerate  # noqa: PLC0415
    from service.environment import describe  # noqa: PLC0415

    check_devices(settings)
    is_random = settings.load_format == "random"
    dtype = getattr(torch, settings.dtype)
    check_scheme(settings.quantization, settings.device, dtype)
    place = {"device": _first_device(settings), "dtype": dtype}
    folder = resolve(locate(settings.model, weights=not is_random))
    begun = perf_counter()
    if is_random:
        log.warning("weights are random", extra={"model": settings.model})
        family = build_random(read_config(folder), folder, seed=RANDOM_SEED, **place)
        weights = random_hash(read_config(folder), RANDOM_SEED)
    else:
        family = load(folder, on_progress=on_progress or ProgressLog(), **place)
        weights = weights_hash(folder, kept=hashes_folder(settings))
    check_hash(settings, weights)
    quantize(family.module, settings.quantization, settings.device)
    if settings.offload == "layers":
        from model.offload import offload_layers  # noqa: PLC0415

        offload_layers(family.module, settings.device)
    else:
        family.module.to(settings.device)
    log.info("loaded", extra={"model": settings.model, "seconds": round(perf_counter() - begun, 3)})
    libraries = () if settings.quantization == "none" else ("torchao",)
    acceleration = accelerate(family, settings)
    card = ModelCard(
        id=model_id(settings),
        capabilities=family.capabilities,
        weights_hash=weights,
        device=settings.device,
        dtype=settings.dtype,
        backend=acceleration.backend,
        compile=acceleration.compile,
        load_format=settings.load_format,
        quantization=settings.quantization,
        is_offloaded=settings.offload == "layers",
        about=read_about(folder),
        environment=describe(settings.device, settings.devices, threads_each(settings), *libraries),
    )
    model = LoadedModel(card=card, family=family, runner=acceleration.runner)
    if settings.devices == 1:
        return model
    from service.followers import lead  # noqa: PLC0415

    return lead(model, settings)


def _first_device(settings: Settings) -> str:
    """Say where weights are read to: what the device may not have room for goes there a layer at a time.

    Random weights are made where they stay, unless that is the host, because the host would take minutes.
    """
    is_reduced = settings.quantization != "none" and settings.load_format == "auto"
    return "cpu" if is_reduced or settings.offload == "layers" else settings.device


def hashes_folder(settings: Settings) -> Path:
    """Return where the hashes of files are kept, so that a file that stays as it is, is read once."""
    return settings.cache_dir / "hashes"


def check_hash(settings: Settings, weights_hash: str) -> None:
    """Refuse weights that are not those that the settings expect.

    Raises:
        BadCheckpoint: They are others.
    """
    if settings.weights_sha256 not in (None, weights_hash):
        raise BadCheckpoint(
            f"the weights of {settings.model} have the SHA-256 {weights_hash}; "
            f"HBRIDGE_WEIGHTS_SHA256 expects {settings.weights_sha256}"
        )


def load_apart(settings: Settings) -> LoadedModel:
    """Load the model in a process that is only the engine's, and so has not been told yet how to log."""
    logs.configure(settings.log_format, settings.log_level, has_content=settings.log_content)
    return load_model(settings)


def create_client(settings: Settings) -> Client:
    """Make the client of an engine as the settings say; nothing is loaded yet."""
    return Client(create_host(settings), model_id=model_id(settings))


def create_host(settings: Settings) -> Host:
    """Make what an engine runs in as the settings say; nothing is loaded yet."""
    config = EngineConfig(
        max_waiting=settings.max_waiting,
        num_threads=threads_each(settings),
        max_memory_bytes=settings.max_memory_bytes,
        cost_folder=settings.cache_dir / "costs",
    )
    if settings.engine == "inline":
        return InlineEngine(partial(load_model, settings), config)
    watch = WatchConfig(
        max_load_seconds=settings.max_load_seconds,
        max_step_seconds=settings.max_step_seconds,
        max_pause_seconds=settings.max_restart_pause_seconds,
        max_repeats=settings.max_job_attempts - 1,
    )
    return EngineProcess(partial(load_apart, settings), config, watch)
