"""How many engine replicas there should be, by what there is to do."""

from math import inf
from typing import Any

from ray.serve.config import AutoscalingContext

METRIC = "queued_device_seconds"
"""What each replica says of itself: what all jobs that are in still need on its device."""


class DeviceSecondsPolicy:
    """Keeps what jobs still need on the device at so many seconds for each replica.

    Ray keeps the number within its bounds, and waits before it changes it.

    Args:
        target_seconds: What a replica may have to do before there is another.
    """

    def __init__(self, target_seconds: float = 30.0) -> None:
        if not 0 < target_seconds < inf:
            raise ValueError(f"target_seconds {target_seconds} must be above 0")
        self._target_seconds = target_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return how many replicas there should be."""
        metrics = context.aggregated_metrics or {}
        return sum(metrics.get(METRIC, {}).values()) / self._target_seconds, {}
