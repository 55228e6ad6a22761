import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service import key_store
from service.auth import FRESH_SECONDS, MAX_PROVING, Auth
from service.database import Database
from service.errors import InvalidApiKey, RateLimited
from service.key_store import KeyStore
from service.rates import Rates
from service.tenant import LOCAL, SCOPES, Tenant

Use = Callable[[Callable[[Database], Any]], Any]
HOME, AWAY = "127.0.0.1", "203.0.113.9"


class House:
    """A server's keys, and a clock that the test sets.

    Attributes:
        proofs: Hashes that were checked.
    """

    def __init__(self, database: Database) -> None:
        self.now = 0.0
        self.store = KeyStore(database)
        self.auth = Auth(self.store, Rates(), clock=lambda: self.now)

    async def make(self, **given: Any) -> str:
        wanted: dict[str, Any] = {"name": "ci", "tenant": "ann", "scopes": ["edit"]} | given
        return await self.store.create(**wanted)

    async def identify(self, text: str | None, network: str = AWAY) -> Tenant:
        return await self.auth.identify(text, is_local=network == HOME, network=network)

    async def refusal(self, text: str | None, network: str = AWAY) -> str:
        with pytest.raises(InvalidApiKey) as refusal:
            await self.identify(text, network)
        return str(refusal.value)


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every hash that is checked from now on."""
    checked: list[str] = []

    def matches(hashed: str, secret: str) -> bool:
        checked.append(hashed)
        return key_store.matches(hashed, secret)

    monkeypatch.setattr("service.auth.matches", matches)
    return checked


def wrong(text: str) -> str:
    """Return a key with the same id and another secret."""
    return text[:-4] + ("aaaa" if not text.endswith("aaaa") else "bbbb")


def test_a_key_tells_its_tenant(use: Use) -> None:
    async def work(database: Database) -> None:
        house = House(database)
        texts = [
            await house.make(tenant=name, scopes=[scope]) for name, scope in zip("abc", SCOPES, strict=False)
        ]
        for text, name, scope in zip(texts, "abc", SCOPES, strict=False):
            for network in (AWAY, HOME):
                assert await house.identify(text, network) == Tenant(name=name, scopes=frozenset({scope}))

    use(work)


def test_without_keys_this_machine_is_served_whatever_it_sends_and_no_other(use: Use) -> None:
    async def work(database: Database) -> None:
        house = House(database)
        for text in (None, "sk-anything"):
            assert await house.identify(text, HOME) is LOCAL
            assert "hbridge keys create" in await house.refusal(text)

    use(work)


@pytest.mark.parametrize(
    ("host", "is_warned"),
    [("0.0.0.0", True), ("::", True), ("10.0.0.1", True), ("127.0.0.1", False), ("localhost", False)],
)
def test_an_operator_who_listens_elsewhere_without_keys_is_warned(
    use: Use, host: str, is_warned: bool
) -> None:
    async def work(database: Database) -> list[str]:
        before = await House(database).auth.warning(host)
        await House(database).make()
        return [before, await House(database).auth.warning(host)]

    before, after = use(work)
    assert ("hbridge keys create" in before and host in before) is is_warned
    assert bool(before) is is_warned
    assert after == ""


def test_the_first_key_ends_what_needs_none_for_good(use: Use) -> None:
    async def work(database: Database) -> None:
        house = House(database)
        assert await house.identify(None, HOME) is LOCAL
        text = await house.make()
        house.now += FRESH_SECONDS
        assert "Authorization: Bearer" in await house.refusal(None, HOME)
        await house.store.revoke(text.split("-")[1])
        house.now += FRESH_SECONDS
        await house.refusal(None, HOME)
        assert "Authorization: Bearer" in await House(database).refusal(None, HOME)

    use(work)


def test_a_key_is_proven_but_once_however_often_it_comes(use: Use, proofs: list[str]) -> None:
    async def work(database: Database) -> None:
        house = House(database)
        text = await house.make()
        for _ in range(3):
            await asyncio.gather(*(house.identify(text) for _ in range(10)))
            house.now += FRESH_SECONDS

    use(work)
    assert len(proofs) <= MAX_PROVING  # those that came at once


def test_a_new_key_is_good_at_once(use: Use) -> None:
    async def work(database: Database) -> None:
        house = House(database)
        for _ in range(3):
            await house.identify(await house.make())

    use(work)


def test_a_revoked_key_is_refused_within_five_seconds_by_a_server_that_knew_it(use: Use) -> None:
    async def work(database: Database) -> str:
        house, elsewhere = House(database), KeyStore(database)
        text = await house.make()
        await house.identify(text)
        await elsewhere.revoke(text.split("-")[1])
        house.now += 5.0
        return await house.refusal(text)

    assert "revoked" in use(work)


def test_what_a_tenant_may_use_changes_as_soon(use: Use) -> None:
    async def work(database: Database) -> list[float]:
        house = House(database)
        text = await house.make()
        before = await house.identify(text)
        await house.store.set_limits("ann", key_store.Limits(weight=3.0))
        house.now += FRESH_SECONDS
        return [before.weight, (await house.identify(text)).weight]

    assert use(work) == [1.0, 3.0]


def test_a_key_expires_also_while_it_is_remembered(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(database: Database) -> str:
        house = House(database)
        text = await house.make(expires=1000.0)
        monkeypatch.setattr("time.time", lambda: 999.9)
        await house.identify(text)
        monkeypatch.setattr("time.time", lambda: 1000.0)
        return await house.refusal(text)

    assert "expired" in use(work)


def test_only_who_has_the_secret_learns_what_became_of_a_key(use: Use) -> None:
    async def work(database: Database) -> list[str]:
        house = House(database)
        revoked, expired = await house.make(), await house.make(expires=1.0)
        await house.store.revoke(revoked.split("-")[1])
        unknown = "hb-" + "0" * 12 + revoked[15:]
        return [
            await house.refusal(text) for text in (unknown, wrong(revoked), wrong(expired), "sk-other", "")
        ]

    assert len(set(use(work))) == 1


def test_an_id_that_nobody_has_takes_the_work_of_one_that_somebody_has(use: Use, proofs: list[str]) -> None:
    async def work(database: Database) -> None:
        house = House(database)
        text = await house.make()
        await house.identify(text)
        for attempt in (wrong(text), "hb-" + "0" * 12 + text[15:]):
            del proofs[:]
            await house.refusal(attempt)
            assert len(proofs) == 1

    use(work)


def test_a_secret_is_good_for_its_own_key_alone(use: Use) -> None:
    async def work(database: Database) -> None:
        house = House(database)
        one, other = await house.make(), await house.make(tenant="bob")
        for text in (one, other):
            await house.identify(text)
        await house.refusal(one[:16] + other[16:])

    use(work)


def test_a_replaced_secret_ends_what_was_proven(use: Use) -> None:
    first, second = (f"hb-bootstrap-{letter * 40}" for letter in "ab")

    async def work(database: Database) -> None:
        house = House(database)
        await house.store.bootstrap(first)
        await house.identify(first)
        await house.store.bootstrap(second)
        house.now += FRESH_SECONDS
        await house.identify(second)
        await house.refusal(first)
        await house.identify(second)

    use(work)


def test_who_tries_too_many_wrong_keys_has_to_wait_and_nobody_else(use: Use, proofs: list[str]) -> None:
    async def work(database: Database) -> None:
        house = House(database)
        known, unused = await house.make(), await house.make()
        await house.identify(known)
        attempts = (house.identify(f"hb-{number:04}-" + "a" * 40) for number in range(60))
        refusals = await asyncio.gather(*attempts, return_exceptions=True)
        assert {type(each) for each in refusals} == {InvalidApiKey, RateLimited}
        assert len(proofs) <= 1 + 20 + 1  # one that is right, the rate, and who was on the way meanwhile
        with pytest.raises(RateLimited) as refusal:
            await house.identify(unused)
        assert 1 <= refusal.value.retry_after_seconds <= 60
        await house.identify(known)
        await house.identify(unused, "198.51.100.7")

    use(work)
