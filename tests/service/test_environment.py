import platform
from importlib.metadata import version

from service.environment import PACKAGES, describe, processor


def test_hardware_threads_and_versions_are_named() -> None:
    found = describe("cpu", 2, 3)
    assert (found.hardware, found.num_devices, found.num_threads) == (processor(), 2, 3)
    assert found.hardware
    assert found.versions["python"] == platform.python_version()
    assert {name: found.versions[name] for name in PACKAGES} == {name: version(name) for name in PACKAGES}
