"""Which devices an engine uses, and how many threads beside them."""

from model.errors import ModelError
from service.engine.engine import NUM_THREADS
from service.settings import Settings


class UnusableDevice(ModelError):
    """The device that was asked for is not there."""


def device_of(settings: Settings, rank: int) -> str:
    """Name the device of a process: cuda:2 is that of the second where the first has cuda:1."""
    if settings.device.startswith("cuda"):
        return f"cuda:{int(settings.device.partition(':')[2] or 0) + rank}"
    return settings.device


def check_devices(settings: Settings) -> None:
    """Refuse devices that are not here.

    Raises:
        UnusableDevice: Says which.
    """
    import torch  # noqa: PLC0415 - see service.loading

    if settings.device == "mps" and settings.devices > 1:
        raise UnusableDevice("device mps is a single one; set HBRIDGE_DEVICES=1")
    if not settings.device.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise UnusableDevice(f"device {settings.device} is not usable here; set HBRIDGE_DEVICE=cpu")
    last, count = device_of(settings, settings.devices - 1), torch.cuda.device_count()
    if int(last.removeprefix("cuda:")) >= count:
        raise UnusableDevice(
            f"device {last} is not among the {count} that are here; change HBRIDGE_DEVICE or HBRIDGE_DEVICES"
        )


def threads_each(settings: Settings) -> int:
    """Return the CPU threads of one operation in each of the processes that compute."""
    if settings.num_threads:
        return settings.num_threads
    sharing = 1 if settings.device.startswith("cuda") else settings.devices
    return max(1, NUM_THREADS // sharing)
