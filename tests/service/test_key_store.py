import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.allowance import Quota
from service.database import Database
from service.key_store import FORM, HASHER, NOBODYS_HASH, Key, KeyNotFound, KeyStore, Limits, matches
from service.tenant import Tenant

Use = Callable[[Callable[[Database], Any]], Any]
ANN = Limits(weight=2.0, rate="60/minute", quotas="3600/day 50000/month")


def parts(text: str) -> tuple[str, str]:
    """Return a key's id and its secret."""
    match = FORM.fullmatch(text)
    assert match
    return match[1], match[2]


async def make(store: KeyStore, **given: Any) -> str:
    wanted: dict[str, Any] = {"name": "ci", "tenant": "ann", "scopes": ["edit", "generate"]} | given
    return await store.create(**wanted)


async def found(store: KeyStore, text: str) -> Key:
    key = await store.find(parts(text)[0])
    assert key
    return key


def test_a_key_is_found_by_its_id_and_proven_by_its_secret(use: Use) -> None:
    async def work(database: Database) -> None:
        store = KeyStore(database)
        text = await make(store, limits=ANN, expires=5.0)
        key = await found(store, text)
        assert matches(key.hash, parts(text)[1])
        assert not matches(key.hash, parts(text)[1][:-1] + "!")
        quotas = (Quota(3600, "day"), Quota(50000, "month"))
        scopes = frozenset({"edit", "generate"})
        assert key.tenant == Tenant(name="ann", scopes=scopes, weight=2.0, rate="60/minute", quotas=quotas)
        assert (key.name, key.expires, key.revoked) == ("ci", 5.0, None)
        assert abs(key.created - time.time()) < 60
        assert await store.find("nobody") is None

    use(work)


def test_no_two_keys_have_anything_in_common(use: Use) -> None:
    async def work(database: Database) -> list[str]:
        return [await make(KeyStore(database)) for _ in range(3)]

    texts = [parts(text) for text in use(work)]
    assert len({part for text in texts for part in text}) == 6
    assert all(len(secret) >= 43 for _, secret in texts)


def test_a_secret_is_nowhere_in_the_database(use: Use, tmp_path: Path) -> None:
    async def work(database: Database) -> tuple[str, str]:
        store = KeyStore(database)
        text = await make(store)
        assert parts(text)[1] not in repr(await store.list())
        files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert not files or text.split("-")[1].encode() in files
        assert parts(text)[1].encode() not in files
        return parts(text)

    key_id, secret = use(work)
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not files or key_id.encode() in files
    assert secret.encode() not in files


def test_hashes_are_argon2_and_nobodys_takes_as_long_as_anybodys() -> None:
    hashed = HASHER.hash("secret")
    assert hashed.startswith("$argon2id$")
    assert not HASHER.check_needs_rehash(NOBODYS_HASH)
    assert hashed.split("$")[2:4] == NOBODYS_HASH.split("$")[2:4]
    assert len(hashed) == len(NOBODYS_HASH)


def test_revoking_keeps_the_key_and_when_it_was(use: Use) -> None:
    async def work(database: Database) -> None:
        store = KeyStore(database)
        text = await make(store)
        await store.revoke(parts(text)[0])
        first = (await found(store, text)).revoked
        await store.revoke(parts(text)[0])
        assert first
        assert (await found(store, text)).revoked == first
        with pytest.raises(KeyNotFound, match="nobody"):
            await store.revoke("nobody")

    use(work)


def test_keys_are_demanded_for_ever_once_there_was_one(use: Use) -> None:
    async def work(database: Database) -> list[bool]:
        store = KeyStore(database)
        before = await store.has_keys()
        text = await make(store)
        await store.revoke(parts(text)[0])
        return [before, await store.has_keys()]

    assert use(work) == [False, True]


def test_limits_are_the_tenants_and_what_is_left_out_stays(use: Use) -> None:
    async def work(database: Database) -> None:
        store = KeyStore(database)
        first = await make(store, limits=ANN)
        await make(store, name="second")
        assert (await found(store, first)).tenant.weight == 2.0
        await store.set_limits("ann", Limits(rate="unlimited"))
        for key in await store.list():
            assert (key.tenant.weight, key.tenant.rate) == (2.0, "unlimited")
        tenant = await store.find_tenant("ann")
        assert tenant == Tenant(name="ann", weight=2.0, rate="unlimited", quotas=key.tenant.quotas)
        await store.set_limits("ann", Limits(quotas="unlimited"))
        assert (await store.find_tenant("ann")).quotas == ()

    use(work)


def test_a_tenant_that_is_not_known_has_all_defaults(use: Use) -> None:
    async def work(database: Database) -> list[Tenant]:
        store = KeyStore(database)
        await make(store, tenant="plain")
        return [await store.find_tenant(name) for name in ("plain", "unknown")]

    assert use(work) == [Tenant(name="plain"), Tenant(name="unknown")]


@pytest.mark.parametrize(
    "given", [{"name": "a b"}, {"name": ""}, {"tenant": ""}, {"tenant": "-a"}, {"name": "a" * 65}]
)
def test_names_are_plain(use: Use, given: dict[str, str]) -> None:
    async def work(database: Database) -> None:
        with pytest.raises(ValueError, match="must be 1 to 64"):
            await make(KeyStore(database), **given)
        assert not await KeyStore(database).has_keys()

    use(work)


@pytest.mark.parametrize(
    "given",
    [
        {"weight": 0},
        {"weight": -1},
        {"weight": float("nan")},
        {"weight": 1e9},
        {"rate": "1"},
        {"quotas": "1"},
    ],
)
def test_limits_that_cannot_be_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Limits(**given)


FIRST, OTHER = (f"hb-bootstrap-{letter * 40}" for letter in "ab")


def test_a_key_from_a_file_is_an_admins_and_stays_what_it_is(use: Use) -> None:
    async def work(database: Database) -> None:
        store = KeyStore(database)
        await store.bootstrap(FIRST)
        before = await found(store, FIRST)
        await store.bootstrap(FIRST)
        assert await found(store, FIRST) == before
        assert (before.tenant.name, before.tenant.scopes) == ("admin", {"admin"})
        assert matches(before.hash, parts(FIRST)[1])

    use(work)


def test_a_key_from_a_file_that_was_revoked_needs_another_secret(use: Use) -> None:
    async def work(database: Database) -> None:
        store = KeyStore(database)
        await store.bootstrap(FIRST)
        await store.revoke("bootstrap")
        await store.bootstrap(FIRST)
        assert (await found(store, FIRST)).revoked
        await store.bootstrap(OTHER)
        key = await found(store, OTHER)
        assert not key.revoked
        assert matches(key.hash, parts(OTHER)[1])
        assert not matches(key.hash, parts(FIRST)[1])

    use(work)


@pytest.mark.parametrize(
    "text", ["", "secret", "hb-bootstrap-short", "hb-UPPER-" + "a" * 40, "hb-abcd-" + "é" * 40]
)
def test_a_file_without_a_key_is_refused(use: Use, text: str) -> None:
    async def work(database: Database) -> None:
        with pytest.raises(ValueError, match="hb-ID-SECRET"):
            await KeyStore(database).bootstrap(text)

    use(work)
