"""API keys and tenants in the database; of a key's secret only its argon2 hash.

A key is `hb-ID-SECRET`: the id finds the row, the secret proves the key. Secrets are 256 random bits, so the
hash needs no more than OWASP's least parameters, which keep a check at some 20 ms of one core.
"""

import re
import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from sqlalchemy import ForeignKey, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column, relationship

from service.allowance import check_rate, parse_quotas
from service.database import Base, Database
from service.tenant import SCOPES, Scope, Tenant

FORM = re.compile(r"hb-([a-z0-9]{4,32})-([A-Za-z0-9_-]{32,128})")
NAME_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
NOBODYS_HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$JsQ35lkdQnVUSFgrZdGDxg$9N2jOcChlnqLgdGjkw1IX2aPzPj9eYN/WcpKu8OwkcU"
)
"""Of a secret that was thrown away: what is checked for ids that nobody has, so that these take as long."""


class KeyNotFound(LookupError):
    """There is no key of this id."""


class TenantRow(Base):
    """A tenant's share, rate and quotas, in the words of allowance.py; None takes the server's default."""

    __tablename__ = "tenant"

    name: Mapped[str] = mapped_column(primary_key=True)
    weight: Mapped[float] = mapped_column(default=1.0)
    rate: Mapped[str | None]
    quotas: Mapped[str | None]


class KeyRow(Base):
    """A key, with its scopes between spaces and its times in Unix seconds."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    tenant_name: Mapped[str] = mapped_column(ForeignKey("tenant.name"))
    hash: Mapped[str]
    scopes: Mapped[str]
    created: Mapped[float]
    expires: Mapped[float | None]
    revoked: Mapped[float | None]
    tenant: Mapped[TenantRow] = relationship(lazy="joined")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key without its secret.

    Attributes:
        tenant: Whose key it is, with the key's scopes.
        hash: Argon2's, of the secret.
        created: Unix seconds, as all times here.
        expires: From then on it is no longer good.
        revoked: Since when it is no longer good.
    """

    id: str
    name: str
    tenant: Tenant
    hash: str
    created: float
    expires: float | None = None
    revoked: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is set of a tenant; None leaves it as it was."""

    weight: float | None = None
    rate: str | None = None
    quotas: str | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 < self.weight <= 1000:
            raise ValueError(f"weight {self.weight} must be above 0 and at most 1000")
        if self.rate is not None:
            check_rate(self.rate)
        if self.quotas is not None:
            parse_quotas(self.quotas)


class KeyStore:
    """Makes, finds and revokes keys in a database that was started."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        *,
        name: str,
        tenant: str,
        scopes: Iterable[Scope],
        limits: Limits | None = None,
        expires: float | None = None,
    ) -> str:
        """Make a key, and its tenant if that is new; return the whole key, which is nowhere kept.

        Raises:
            ValueError: The name or the tenant's is not one; says what they may be.
        """
        check_name(name, "name")
        text = f"hb-{secrets.token_hex(6)}-{secrets.token_urlsafe(32)}"
        async with self._database.session() as session:
            await _set_limits(session, tenant, limits or Limits())
            session.add(_row(text, name=name, tenant=tenant, scopes=scopes, expires=expires))
        return text

    async def set_limits(self, tenant: str, limits: Limits) -> None:
        """Change what a tenant may use, for all its keys; a tenant without keys may be prepared so.

        Raises:
            ValueError: The tenant's name is not one.
        """
        async with self._database.session() as session:
            await _set_limits(session, tenant, limits)

    async def bootstrap(self, text: str) -> None:
        """Let a key that was made elsewhere be good, with the scope admin; its id's last secret counts.

        A key that was revoked stays so until it comes with another secret.

        Raises:
            ValueError: It is not of the form of a key.
        """
        if not (match := FORM.fullmatch(text)):
            raise ValueError(
                "a key must be hb-ID-SECRET: an id of 4 to 32 of a-z0-9, and 32 to 128 of A-Za-z0-9_-"
            )
        key_id, secret = match.groups()
        # Another server may do the same at the same moment.
        with suppress(IntegrityError):
            await self._put(text, key_id, secret)

    async def _put(self, text: str, key_id: str, secret: str) -> None:
        async with self._database.session() as session:
            row = await session.get(KeyRow, key_id)
            if row and matches(row.hash, secret):
                return
            if row:
                await session.delete(row)
                await session.flush()
            await _set_limits(session, "admin", Limits())
            session.add(_row(text, name="bootstrap", tenant="admin", scopes=["admin"]))

    async def revoke(self, key_id: str) -> None:
        """Let a key be good no longer; one that was revoked keeps its time.

        Raises:
            KeyNotFound: There is none.
        """
        async with self._database.session() as session:
            row = await session.get(KeyRow, key_id)
            if row is None:
                raise KeyNotFound(f"there is no key {key_id!r}; `hbridge keys list` shows all")
            row.revoked = row.revoked or time.time()

    async def find(self, key_id: str) -> Key | None:
        """Return the key of an id, be it good or not."""
        async with self._database.session() as session:
            row = await session.get(KeyRow, key_id)
            return _key(row) if row else None

    async def list(self) -> Sequence[Key]:
        """Return all keys, by tenant and age."""
        async with self._database.session() as session:
            rows = await session.scalars(select(KeyRow).order_by(KeyRow.tenant_name, KeyRow.created))
            return [_key(row) for row in rows]

    async def find_tenant(self, name: str) -> Tenant:
        """Return a tenant without any key's scopes; one that is not known has all defaults."""
        async with self._database.session() as session:
            row = await session.get(TenantRow, name)
            return _tenant(row) if row else Tenant(name=name)

    async def has_keys(self) -> bool:
        """Whether any key was ever configured: also one that was revoked or has expired."""
        async with self._database.session() as session:
            return bool(await session.scalar(select(exists().where(KeyRow.id.is_not(None)))))


def matches(hashed: str, secret: str) -> bool:
    """Say whether a hash is a secret's; takes some 20 ms."""
    try:
        return HASHER.verify(hashed, secret)
    except VerificationError:
        return False


def check_name(name: str, what: str) -> None:
    """Refuse what would be hard to tell or to write.

    Raises:
        ValueError: Says what a name may be.
    """
    if not NAME_FORM.fullmatch(name):
        raise ValueError(
            f"{what} {name[:80]!r} must be 1 to 64 of A-Za-z0-9._@- and begin with a letter or a digit"
        )


async def _set_limits(session: AsyncSession, tenant: str, limits: Limits) -> None:
    check_name(tenant, "tenant")
    row = await session.get(TenantRow, tenant)
    if row is None:
        row = TenantRow(name=tenant, weight=1.0)
        session.add(row)
    row.weight = row.weight if limits.weight is None else limits.weight
    row.rate = limits.rate or row.rate
    row.quotas = limits.quotas or row.quotas


def _row(
    text: str, *, name: str, tenant: str, scopes: Iterable[Scope], expires: float | None = None
) -> KeyRow:
    match = FORM.fullmatch(text)
    assert match, "a key of ours is of its form"
    key_id, secret = match.groups()
    return KeyRow(
        id=key_id,
        name=name,
        tenant_name=tenant,
        hash=HASHER.hash(secret),
        scopes=" ".join(sorted(set(scopes))),
        created=time.time(),
        expires=expires,
    )


def _key(row: KeyRow) -> Key:
    granted = row.scopes.split()
    scopes = frozenset(scope for scope in SCOPES if scope in granted)
    return Key(
        id=row.id,
        name=row.name,
        tenant=_tenant(row.tenant, scopes),
        hash=row.hash,
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
    )


def _tenant(row: TenantRow, scopes: frozenset[Scope] = frozenset()) -> Tenant:
    return Tenant(
        name=row.name,
        scopes=scopes,
        weight=row.weight,
        rate=row.rate,
        quotas=None if row.quotas is None else parse_quotas(row.quotas),
    )
