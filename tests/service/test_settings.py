import pytest
from pydantic import ValidationError

from service.settings import Settings


def test_the_environment_sets_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HBRIDGE_PORT", "9000")
    monkeypatch.setenv("HBRIDGE_MAX_WAITING", "3")
    monkeypatch.setenv("HBRIDGE_DEVICE", "")
    settings = Settings()
    assert (settings.port, settings.max_waiting, settings.device) == (9000, 3, "cpu")
    assert Settings(port=1).port == 1


def test_several_of_something_are_a_json_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HBRIDGE_FETCH_HOSTS", '["images.example", "cdn.example"]')
    monkeypatch.setenv("HBRIDGE_FETCH_PORTS", "[8443]")
    settings = Settings()
    assert settings.fetch_hosts == {"images.example", "cdn.example"}
    assert settings.fetch_ports == {8443}


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"device": "tpu"},
        {"dtype": "int8"},
        {"max_waiting": -1},
        {"log_format": "xml"},
        {"engine": "steam"},
        {"max_step_seconds": 0},
        {"prt": 1},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_settings_do_not_change_once_built() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
