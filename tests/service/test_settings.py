"""What may be set; docs/settings.md lists it, written by `python -m tests.service.test_settings`."""

from pathlib import Path
from typing import Any

import platformdirs
import pytest
from pydantic import SecretStr, ValidationError

from service.allowance import check_rate, parse_quotas
from service.settings import Settings

PAGE = Path("docs/settings.md")
FOLDERS = {
    platformdirs.user_cache_path("hbridge"): "`~/.cache/hbridge` on Linux",
    platformdirs.user_data_path("hbridge"): "`~/.local/share/hbridge` on Linux",
}


def test_the_environment_sets_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HBRIDGE_PORT", "9000")
    monkeypatch.setenv("HBRIDGE_MAX_WAITING", "3")
    monkeypatch.setenv("HBRIDGE_DEVICE", "")
    settings = Settings()
    assert (settings.port, settings.max_waiting, settings.device) == (9000, 3, "cpu")
    assert Settings(port=1).port == 1


def test_a_file_of_secrets_sets_a_field_that_the_environment_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hbridge_database_url").write_text("postgresql://a:secret@host/name\n")
    (tmp_path / "hbridge_port").write_text("1")
    monkeypatch.setenv("HBRIDGE_PORT", "2")
    settings = Settings(_secrets_dir=tmp_path)  # type: ignore[call-arg]
    assert settings.database == "postgresql://a:secret@host/name"
    assert settings.port == 2


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
        {"public_url": "here"},
        {"link_key": "short"},
        {"webhook_secret": "whsec_short"},
        {"retention_seconds": 0},
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


def page() -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Everything that an operator may set, in the environment of `hbridge serve`. What cannot be is",
        "refused at the start, with its name. Lists are JSON, as in",
        "`HBRIDGE_FETCH_HOSTS='[\"images.example\"]'`.",
        "",
        "What is not in the environment may be a file of `/run/secrets`, where Docker and Kubernetes put",
        "secrets: `/run/secrets/hbridge_database_url` holds what `HBRIDGE_DATABASE_URL` would.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = _shown(field.get_default(call_default_factory=True))
        lines.append(f"| `HBRIDGE_{name.upper()}` | {default} | {field.description} |")
    return "\n".join([*lines, "", "(`python -m tests.service.test_settings` writes this page.)", ""])


def _shown(default: Any) -> str:
    if isinstance(default, Path):
        return FOLDERS[default]
    if isinstance(default, SecretStr):
        return f"`{default.get_secret_value()}`"
    if isinstance(default, frozenset | tuple | list):
        return f"`{sorted(default)}`"
    return (
        "" if default in (None, "") else f"`{str(default).lower() if isinstance(default, bool) else default}`"
    )


def test_the_page_of_settings_lists_all_as_they_are() -> None:
    assert page() == PAGE.read_text(), "if it is meant: python -m tests.service.test_settings"


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_database_is_a_file_of_the_data_folder_unless_it_is_elsewhere() -> None:
    assert Settings(data_dir=Path("/data")).database == "sqlite:////data/hbridge.db"
    url = "postgresql://someone:secret@host/name"
    elsewhere = Settings(database_url=url)
    assert elsewhere.database == url
    assert "someone:secret" not in repr(elsewhere)


def test_defaults_of_tenants_have_the_form_of_their_own() -> None:
    settings = Settings(default_rate="60/minute", default_quotas="3600/day 50000/month")
    assert settings.default_rate == check_rate("60/minute")
    assert len(parse_quotas(settings.default_quotas or "")) == 2


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


if __name__ == "__main__":
    PAGE.write_text(page())
