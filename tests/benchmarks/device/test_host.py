import os
import time
from collections.abc import Callable
from importlib import import_module

import pytest

from benchmarks.device.host import Gone, Host, Late


def work(name: str) -> Callable[..., None]:
    found: Callable[..., None] = getattr(import_module("works"), name)
    return found


def test_one_process_answers_message_after_message_until_it_is_stopped() -> None:
    with Host(work("echo"), "word") as host:
        first, message, word = host.ask("hello", 30)
        assert (message, word) == ("hello", "word")
        assert host.ask(2, 30)[:2] == (first, 2)
        assert first != os.getpid()
    assert not host.is_up
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_process_that_ends_is_told_with_its_status_and_started_anew() -> None:
    with Host(work("die")) as host:
        for _ in range(2):
            with pytest.raises(Gone, match="status 7"):
                host.ask("hello", 30)
            assert not host.is_up


def test_a_process_that_takes_too_long_is_killed_in_time() -> None:
    begun = time.monotonic()
    with Host(work("sleep")) as host, pytest.raises(Late):
        host.ask("hello", 0.5)
    assert time.monotonic() - begun < 5
    assert not host.is_up


def test_stopping_what_never_started_is_nothing() -> None:
    assert Host(work("echo"), "unused").stop() == "nothing"
