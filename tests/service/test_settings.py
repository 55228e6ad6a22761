from pathlib import Path

import pytest
from pydantic import ValidationError

from service.allowance import check_rate, parse_quotas
from service.settings import Settings


def test_the_environment_sets_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HBRIDGE_PORT", "9000")
    monkeypatch.setenv("HBRIDGE_MAX_WAITING", "3")
    monkeypatch.setenv("HBRIDGE_DEVICE", "")
    settings = Settings()
    assert (settings.port, settings.max_waiting, settings.device) == (9000, 3, "cpu")
    assert Settings(port=1).port == 1


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
        {"database_url": "mysql://localhost/a"},
        {"limits_storage_url": "memcached://localhost"},
        {"default_rate": "often"},
        {"default_quotas": "3600"},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_settings_do_not_change_once_built() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_the_database_is_a_file_of_the_data_folder_unless_it_is_elsewhere() -> None:
    assert Settings(data_dir=Path("/data")).database == "sqlite:////data/hbridge.db"
    url = "postgresql://someone:secret@host/name"
    elsewhere = Settings(database_url=url)
    assert elsewhere.database == url
    assert "secret" not in repr(elsewhere)


def test_defaults_of_tenants_have_the_form_of_their_own() -> None:
    settings = Settings(default_rate="60/minute", default_quotas="3600/day 50000/month")
    assert settings.default_rate == check_rate("60/minute")
    assert len(parse_quotas(settings.default_quotas or "")) == 2
