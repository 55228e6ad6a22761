import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.certificates import CERTIFICATE_FILE, KEY_FILE, load_key
from service.cli import app
from service.content_credentials import check_key
from service.database import Database
from service.key_store import Key, KeyStore
from service.settings import Settings
from service.tenant import SCOPES
from service.usage import Usage

KEY = re.compile(r"hb-([0-9a-f]{12})-([A-Za-z0-9_-]{43})\n")
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs `hbridge keys`."""
    monkeypatch.setenv("HBRIDGE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    return lambda *words: CliRunner().invoke(app, ["keys", *map(str, words)])


def stored(work: Callable[[Database], Awaitable[Any]]) -> Any:
    """Do something with the database that the commands use."""

    async def look() -> Any:
        database = Database(Settings().database)
        try:
            await database.start()
            return await work(database)
        finally:
            await database.stop()

    return asyncio.run(look())


def keys() -> list[Key]:
    found: list[Key] = stored(lambda database: KeyStore(database).list())
    return found


def create(run: Run, *words: str) -> tuple[str, str]:
    """Make a key; return its id and its secret."""
    result = run("create", *words)
    assert result.exit_code == 0, result.output
    match = KEY.fullmatch(result.stdout)
    assert match, "standard output is the key and nothing else"
    return match[1], match[2]


def test_a_key_is_written_once_and_alone(run: Run) -> None:
    key_id, secret = create(run, "ci")
    (key,) = keys()
    assert (key.id, key.name, key.tenant.name, key.expires) == (key_id, "ci", "ci", None)
    assert key.tenant.scopes == {"generate", "edit", "understand", "jobs"}
    assert secret not in run("list").output


def test_every_option_counts(run: Run) -> None:
    words = "--tenant acme --scope generate --scope metrics --rate 60/minute --quota 3600/day --quota 5/month"
    create(run, "ci", *words.split(), "--weight", "2", "--expires", "90d")
    (key,) = keys()
    assert (key.name, key.tenant.name, key.tenant.scopes) == ("ci", "acme", {"generate", "metrics"})
    assert (key.tenant.rate, key.tenant.weight) == ("60/minute", 2.0)
    assert [str(quota) for quota in key.tenant.quotas or ()] == ["3600/day", "5/month"]
    assert key.expires
    assert key.expires - key.created == pytest.approx(90 * 24 * 3600, abs=60)


@pytest.mark.parametrize("scope", SCOPES)
def test_every_scope_can_be_granted(run: Run, scope: str) -> None:
    create(run, "ci", "--scope", scope)
    assert keys()[0].tenant.scopes == {scope}


def test_the_list_shows_what_is_known_and_no_secret(run: Run) -> None:
    first, second = (
        create(run, "one", "--tenant", "acme", "--weight", "2.5"),
        create(run, "two", "--expires", "1m"),
    )
    run("revoke", first[0])
    stored(lambda database: Usage(database).add({"acme": 12.34}))
    shown = run("list").stdout
    lines = {line.split()[1]: line for line in shown.splitlines() if "│" in line}
    for words in ("one", "acme", "revoked", "2.5", "default", "12.3"):
        assert words in lines[first[0]]
    for words in ("two", "good until", "0.0"):
        assert words in lines[second[0]]
    assert not any(secret in shown or "argon2" in shown for _, secret in (first, second))


def test_revoking_names_the_key(run: Run) -> None:
    key_id, _ = create(run, "ci")
    assert run("revoke", key_id).exit_code == 0
    assert keys()[0].revoked


def test_limits_are_set_for_all_keys_of_a_tenant(run: Run) -> None:
    for name in ("one", "two"):
        create(run, name, "--tenant", "acme", "--rate", "1/minute")
    assert run("limit", "acme", "--weight", "3", "--quota", "unlimited").exit_code == 0
    for key in keys():
        assert (key.tenant.weight, key.tenant.rate, key.tenant.quotas) == (3.0, "1/minute", ())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("create a --scope paint", "generate, edit, understand, jobs, admin, metrics"),
        ("create a --rate often", "60/minute"),
        ("create a --quota 5", "3600/day"),
        ("create a --weight 0", "above 0"),
        ("create a --expires soon", "90d"),
        ("create a/b", "A-Za-z0-9"),
        ("create a --tenant a/b", "A-Za-z0-9"),
        ("limit a/b", "A-Za-z0-9"),
        ("revoke nobody", "hbridge keys list"),
    ],
)
def test_a_mistake_is_said_in_a_line_and_changes_nothing(run: Run, words: str, told: str) -> None:
    result = run(*words.split())
    assert result.exit_code == 2
    assert told in result.output
    assert result.stdout == ""
    assert keys() == []


def test_a_database_that_is_not_there_is_said_in_a_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HBRIDGE_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    result = run("list")
    assert result.exit_code == 2
    assert "the database postgresql://nobody:***@127.0.0.1:1/none cannot be used" in result.output
    assert "secret" not in result.output
    assert "Traceback" not in result.output


def test_a_development_certificate_is_made_that_can_sign(run: Run, tmp_path: Path) -> None:
    result = run("dev-cert", tmp_path / "new")
    assert result.exit_code == 0, result.output
    key_file, certificate_file = tmp_path / "new" / KEY_FILE, tmp_path / "new" / CERTIFICATE_FILE
    check_key(load_key(key_file, certificate_file))
    assert f"HBRIDGE_SIGNING_KEY={key_file}" in result.stdout
    assert f"HBRIDGE_SIGNING_CERTIFICATE={certificate_file}" in result.stdout


def test_a_development_certificate_does_not_replace_another(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    result = run("dev-cert", tmp_path)
    assert result.exit_code == 2
    assert "already" in result.output
