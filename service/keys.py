"""The commands `hbridge keys`: make API keys, show them, revoke them, and set what their tenants may use.

They work on the database alone, beside servers that run or without one. `dev-cert` makes a key of another
kind, which signs pictures.
"""

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from service.terminal import screen, settings_with, users_faults

if TYPE_CHECKING:
    from service.key_store import Key, KeyStore, Limits
    from service.usage import Usage

app = typer.Typer(help="Make, show and revoke API keys; make one that signs pictures.", no_args_is_help=True)

Result = TypeVar("Result")

UNITS = {"m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
WORK = ("generate", "edit", "understand", "jobs")
PIPED_WIDTH = 200

Scopes = Annotated[
    list[str] | None,
    typer.Option(
        help="generate, edit, understand, jobs, metrics, or admin for all; may be repeated; the first four "
        "when left out."
    ),
]
Rate = Annotated[
    str | None, typer.Option(help="The tenant's requests for work, such as 60/minute, or unlimited.")
]
QuotaList = Annotated[
    list[str] | None,
    typer.Option(
        help="The tenant's device-seconds, such as 3600/day or 50000/month, or unlimited; may be repeated."
    ),
]
Weight = Annotated[
    float | None, typer.Option(help="The tenant's share of the device beside others'; 1 for a new one.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What the commands read and write."""

    keys: "KeyStore"
    usage: "Usage"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    *,
    tenant: Annotated[str | None, typer.Option(help="Whose key it is; NAME when left out.")] = None,
    scope: Scopes = None,
    rate: Rate = None,
    quota: QuotaList = None,
    weight: Weight = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it is good, such as 12h or 90d; for ever when left out.")
    ] = None,
) -> None:
    """Make a key and write it to standard output; only this once, as no more than its hash is kept."""
    from service.tenant import SCOPES  # noqa: PLC0415

    for unknown in set(scope or ()) - set(SCOPES):
        raise typer.BadParameter(f"{unknown!r} must be one of {', '.join(SCOPES)}", param_hint="--scope")
    granted = [each for each in SCOPES if each in (scope or WORK)]
    until = time.time() + _seconds(expires) if expires else None
    limits, owner = _limits(rate, quota, weight), tenant or name

    async def make(books: Books) -> str:
        return await books.keys.create(name=name, tenant=owner, scopes=granted, limits=limits, expires=until)

    text = _run(make)
    typer.echo(text)
    screen.print(
        f"key {text.split('-')[1]} of tenant {owner}, for {', '.join(granted)}; it is not shown again",
        highlight=False,
        soft_wrap=True,
    )


@app.command(name="list")
def show() -> None:
    """List all keys, with what their tenants may use and have used; secrets are not known."""

    async def read(books: Books) -> Table:
        today, month = await books.usage.of("day"), await books.usage.of("month")
        table = Table(
            "key", "name", "tenant", "scopes", "state", "weight", "rate", "quotas", "today", "month"
        )
        for key in await books.keys.list():
            used = (f"{seconds.get(key.tenant.name, 0.0):.1f}" for seconds in (today, month))
            table.add_row(*_cells(key), *used)
        return table

    table = _run(read)
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="As `hbridge keys list` shows it.")]) -> None:
    """Let a key be good no longer; running servers refuse it within five seconds."""
    _run(lambda books: books.keys.revoke(key_id))
    screen.print(f"key {key_id} is revoked", highlight=False)


@app.command()
def limit(
    tenant: Annotated[str, typer.Argument(help="Whose rate, quotas and weight are set, for all its keys.")],
    *,
    rate: Rate = None,
    quota: QuotaList = None,
    weight: Weight = None,
) -> None:
    """Set what a tenant may use; what is left out stays as it is. It counts within five seconds."""
    limits = _limits(rate, quota, weight)
    _run(lambda books: books.keys.set_limits(tenant, limits))
    screen.print(f"the limits of tenant {tenant} are set", highlight=False)


@app.command("dev-cert")
def make_development_certificate(
    folder: Annotated[Path, typer.Argument(help="A new folder for the key and its certificate.")],
) -> None:
    """Make a key for signing pictures and a certificate for it, for development: nobody else trusts it."""
    from service.certificates import (  # noqa: PLC0415 - the libraries of certificates take long
        CERTIFICATE_FILE,
        KEY_FILE,
        make_development_key,
        write_key,
    )

    with users_faults():
        write_key(make_development_key(), folder)
    lines = (
        f"HBRIDGE_SIGNING_KEY={folder / KEY_FILE}",
        f"HBRIDGE_SIGNING_CERTIFICATE={folder / CERTIFICATE_FILE}",
    )
    screen.print("For development: nobody else trusts it. To sign pictures with it, set", soft_wrap=True)
    for line in lines:
        typer.echo(line)


def _run(work: Callable[[Books], Awaitable[Result]]) -> Result:
    """Do something with the database that the settings name."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from service.database import Database  # noqa: PLC0415
    from service.key_store import KeyNotFound, KeyStore  # noqa: PLC0415
    from service.usage import Usage  # noqa: PLC0415

    async def run() -> Result:
        database = Database(settings_with().database)
        try:
            await database.start()
            return await work(Books(keys=KeyStore(database), usage=Usage(database)))
        except SQLAlchemyError as error:
            raise OSError(f"the database cannot be used: {getattr(error, 'orig', error)}") from error
        finally:
            await database.stop()

    with users_faults():
        try:
            return asyncio.run(run())
        except (KeyNotFound, ValueError) as error:
            raise typer.BadParameter(str(error)) from error
    raise AssertionError("a fault of the user's ends the command")


def _limits(rate: str | None, quota: list[str] | None, weight: float | None) -> "Limits":
    from service.key_store import Limits  # noqa: PLC0415

    try:
        return Limits(rate=rate, quotas=" ".join(quota) if quota else None, weight=weight)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _seconds(duration: str) -> int:
    if not (match := re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", duration)):
        raise typer.BadParameter(f"{duration!r} must be such as 30m, 12h, 90d or 8w", param_hint="--expires")
    number, unit = match.groups()
    return int(number) * UNITS[unit]


def _cells(key: "Key") -> list[str]:
    """Return what a row of the list shows of a key and its tenant."""
    tenant = key.tenant
    quotas = "default" if tenant.quotas is None else " ".join(map(str, tenant.quotas)) or "unlimited"
    return [
        key.id,
        key.name,
        tenant.name,
        " ".join(sorted(tenant.scopes)),
        _state(key),
        f"{tenant.weight:g}",
        tenant.rate or "default",
        quotas,
    ]


def _state(key: "Key") -> str:
    if key.revoked is not None:
        return f"revoked {_day(key.revoked)}"
    if key.expires is None:
        return "good"
    return f"{'expired' if key.expires <= time.time() else 'good until'} {_day(key.expires)}"


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
