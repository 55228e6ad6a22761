"""The device at hand: its memory, its libraries, and which attention runs on it."""

from dataclasses import dataclass
from importlib.util import find_spec

import psutil
import torch

from model.attention import BACKENDS, Backend, Heads
from model.backend_choice import BOUNDS, problem, relative_error
from service.doctor.report import Extra, Machine
from service.engine.memory import free_bytes
from service.environment import processor

HEADS = Heads(4, 2, 64)


@dataclass(frozen=True, slots=True)
class Optional:
    """A library of an extra, and what it is for."""

    library: str
    extra: str
    gives: str


EXTRAS = (
    Optional("torchao", "memory", "quantized weights: int8 and fp8"),
    Optional("triton", "gpu", "fused kernels on a GPU"),
    Optional("xformers", "gpu", "attention over requests of different lengths in one kernel"),
    Optional("s3fs", "s3", "pictures of jobs and links in S3"),
    Optional("ray", "ray", "the server on Ray Serve"),
    Optional("scipy", "train", "hbridge train and eval"),
    Optional("tensorboard", "train", "curves of a training run"),
    Optional("httpx_sse", "bench", "hbridge bench load"),
    Optional("matplotlib", "bench", "plots of measurements"),
)


def look_at(device: str, memory_bytes: int | None = None) -> Machine:
    """Look at a device.

    Args:
        device: PyTorch's name; it may be one that is not here.
        memory_bytes: To judge another machine by: taken for all of the device's memory, and free.
    """
    is_cuda = device.startswith("cuda")
    is_usable = (not is_cuda or torch.cuda.is_available()) and (
        device != "mps" or torch.backends.mps.is_available()
    )
    total, free = _memory(device) if is_usable else (0, 0)
    capability = torch.cuda.get_device_capability(device) if is_cuda and is_usable else None
    return Machine(
        device=device,
        hardware=_hardware(device) if is_usable else "not here",
        is_usable=is_usable,
        capability=".".join(map(str, capability)) if capability else None,
        memory_bytes=memory_bytes or total,
        free_bytes=memory_bytes or free,
        host_free_bytes=free_bytes("cpu"),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        attention_backends={name: try_attention(name, device) for name in BACKENDS} if is_usable else {},
        extras=[
            Extra(
                library=each.library,
                extra=each.extra,
                gives=each.gives,
                is_installed=find_spec(each.library) is not None,
            )
            for each in EXTRAS
        ],
    )


def try_attention(backend: Backend, device: str) -> str:
    """Run a backend on a device and hold it against the plain one: "runs", or what is wrong."""
    where, dtype = torch.device(device), torch.bfloat16 if device.startswith("cuda") else torch.float32
    if why := problem(backend, where, dtype):
        return why
    try:
        distance = relative_error(backend, where, dtype, HEADS)
    except Exception as error:  # whatever a library that does not fit this device may raise
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return "runs" if distance <= BOUNDS[dtype] else f"off by {distance:.1e}"


def _memory(device: str) -> tuple[int, int]:
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    return psutil.virtual_memory().total, free_bytes(device)


def _hardware(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
