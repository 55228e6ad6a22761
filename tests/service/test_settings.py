from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

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
        {"database_url": "mysql://host/name"},
        {"public_url": "here"},
        {"link_key": "short"},
        {"webhook_secret": "whsec_short"},
        {"retention_seconds": 0},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_settings_do_not_change_once_built() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_everything_that_is_kept_is_in_one_folder_unless_said_otherwise(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert (settings.database, settings.store) == (f"sqlite:///{tmp_path}/hbridge.db", f"{tmp_path}/files")
    elsewhere = Settings(database_url=SecretStr("postgresql://host/name"), store_url="s3://bucket/folder")
    assert (elsewhere.database, elsewhere.store) == ("postgresql://host/name", "s3://bucket/folder")


def test_secrets_are_not_shown() -> None:
    secret = "whsec_" + "c2VjcmV0" * 4
    settings = Settings(
        database_url=SecretStr("postgresql://user:hidden@host/name"), webhook_secret=SecretStr(secret)
    )
    assert "hidden" not in repr(settings)
    assert secret not in repr(settings)
