import pytest
from pydantic import ValidationError

from service.devices import UnusableDevice, check_devices, device_of, threads_each
from service.engine.engine import NUM_THREADS
from service.settings import Settings


@pytest.mark.parametrize(
    ("first", "rank", "device"),
    [("cpu", 1, "cpu"), ("cuda", 0, "cuda:0"), ("cuda", 2, "cuda:2"), ("cuda:1", 1, "cuda:2")],
)
def test_each_process_has_the_next_device(first: str, rank: int, device: str) -> None:
    assert device_of(Settings(device=first, devices=3), rank) == device


def test_devices_that_are_not_here_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_devices(Settings(device="cpu", devices=7))
    with pytest.raises(UnusableDevice, match="HBRIDGE_DEVICES=1"):
        check_devices(Settings(device="mps", devices=2))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UnusableDevice, match="HBRIDGE_DEVICE=cpu"):
        check_devices(Settings(device="cuda:0"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    check_devices(Settings(device="cuda", devices=2))
    for too_many in (Settings(device="cuda:1", devices=2), Settings(device="cuda:2")):
        with pytest.raises(UnusableDevice, match="cuda:2 is not among the 2"):
            check_devices(too_many)


def test_processes_of_one_processor_share_its_threads() -> None:
    assert threads_each(Settings()) == NUM_THREADS
    assert threads_each(Settings(device="cpu", devices=NUM_THREADS + 1)) == 1
    assert threads_each(Settings(device="cuda", devices=NUM_THREADS + 1)) == NUM_THREADS
    assert threads_each(Settings(devices=2, num_threads=3)) == 3


def test_several_devices_need_a_process_to_start_again() -> None:
    with pytest.raises(ValidationError, match="set engine to process"):
        Settings(devices=2, engine="inline")
