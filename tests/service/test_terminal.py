from collections.abc import Callable

import pytest
import typer

from service.settings import Settings
from service.terminal import USERS_FAULT, settings_with, users_faults


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (lambda: Settings(port=-1), "settings: port"),
        (lambda: open("/nowhere"), "/nowhere"),  # noqa: PTH123, SIM115
    ],
)
def test_a_fault_of_the_users_is_a_line_and_an_exit_code(
    fail: Callable[[], object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as end, users_faults():
        fail()
    assert end.value.exit_code == USERS_FAULT
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(KeyError), users_faults():
        raise KeyError("a fault of ours")


def test_options_go_before_the_environment_and_what_is_left_out_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HBRIDGE_PORT", "9000")
    assert settings_with(port=None).port == 9000
    assert settings_with(port=1).port == 1
