"""Where a model runs: what may show in the last bits of a result, for receipts."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from service.engine.job import Environment

PACKAGES = ("hbridge", "torch", "transformers", "diffusers", "numpy", "pillow")
"""Libraries whose version may change a pixel."""


def describe(device: str, num_devices: int, num_threads: int, *more: str) -> Environment:
    """Name hardware and versions.

    Args:
        device: PyTorch's name of the first, such as cuda:0.
        num_devices: How many of them share each step.
        num_threads: CPU threads of one operation.
        more: Libraries that compute beside PACKAGES.
    """
    return Environment(
        hardware=torch.cuda.get_device_name(device) if device.startswith("cuda") else processor(),
        num_devices=num_devices,
        num_threads=num_threads,
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in (*PACKAGES, *more)},
        },
    )


def processor() -> str:
    """Name the processor as exactly as the system does."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
