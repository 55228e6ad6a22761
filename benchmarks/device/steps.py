"""The ways to run a packed step: eager, compiled, or replayed as a graph."""

from benchmarks.device.networks import Network, Unavailable
from benchmarks.device.plan import Mode
from benchmarks.device.workload import Step


def make_step(network: Network, mode: Mode) -> Step:
    """Return a network's packed step in this mode.

    Raises:
        Unavailable: There is no such mode on this device.
    """
    if mode != "eager":
        raise Unavailable(f"{mode} steps are not there yet")
    return network.family.velocity
