"""Who asks: the tenant of the key that comes with a request.

Proving a key costs some 20 ms of a core, so what was proven is remembered in this process by a keyed hash.
What is known of a key, whether it was revoked above all, is read again every few seconds.
"""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from hashlib import blake2b

from cachetools import LRUCache, TTLCache

from service.errors import InvalidApiKey, RateLimited
from service.key_store import FORM, NOBODYS_HASH, Key, KeyStore, matches
from service.origin import is_loopback
from service.rates import Rates
from service.tenant import LOCAL, Tenant

log = logging.getLogger(__name__)

FRESH_SECONDS = 5.0
"""How soon a key that was revoked is refused, and the first key is demanded, by every server."""
WRONG_KEYS = "20/minute"
"""What an address may try before it has to wait; keys that were proven before go on."""
MAX_PROVING = 2
MAX_REMEMBERED = 10_000

CREATE = "`hbridge keys create NAME` makes one"
NO_KEYS = (
    "no API key is configured here, so only programs on the same machine are served, under the name "
    f"localhost or 127.0.0.1 and without a proxy; {CREATE}"
)
NO_KEY = "an API key is needed: send it as `Authorization: Bearer KEY`"
WRONG_KEY = "this API key is not valid here; check that it is whole"


class Auth:
    """Tells tenants by their keys.

    Args:
        clock: Seconds, of how long something is remembered.
    """

    def __init__(self, keys: KeyStore, rates: Rates, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._rates = rates
        self._clock = clock
        self._fresh: TTLCache[str, Key] = TTLCache(MAX_REMEMBERED, FRESH_SECONDS, timer=clock)
        self._proven: LRUCache[bytes, str] = LRUCache(MAX_REMEMBERED)
        self._digest_key = secrets.token_bytes(32)
        self._proving = asyncio.Semaphore(MAX_PROVING)
        self._has_keys = False
        self._asked = -math.inf

    async def has_keys(self) -> bool:
        """Whether keys are demanded, which never ends once it has begun."""
        if not self._has_keys and self._clock() - self._asked >= FRESH_SECONDS:
            self._has_keys, self._asked = await self._keys.has_keys(), self._clock()
        return self._has_keys

    async def warning(self, host: str) -> str:
        """Return what to tell an operator who listens on an address; "" when all is well."""
        if is_loopback(host) or await self.has_keys():
            return ""
        return f"no API key is configured: on {host} only this machine's own requests are served; {CREATE}"

    async def identify(self, text: str | None, *, is_local: bool, network: str) -> Tenant:
        """Return the tenant of a key.

        Args:
            text: The key; None when there is none.
            is_local: Whether it comes from this machine, which needs no key while none is configured.
            network: Where it comes from; whoever tries too many wrong keys has to wait.

        Raises:
            InvalidApiKey: There is no key, or it is not good; says why.
            RateLimited: There were too many wrong ones.
        """
        if not await self.has_keys():
            if is_local:
                return LOCAL
            raise InvalidApiKey(NO_KEYS)
        if text is None:
            raise InvalidApiKey(NO_KEY)
        key = await self._known(text, network)
        if key.revoked is not None:
            raise InvalidApiKey("this API key was revoked; ask for another")
        if key.expires is not None and time.time() >= key.expires:
            raise InvalidApiKey("this API key has expired; ask for another")
        return key.tenant

    async def _known(self, text: str, network: str) -> Key:
        """Return the key that a text proves."""
        if not (match := FORM.fullmatch(text)):
            raise InvalidApiKey(WRONG_KEY)
        key_id, secret = match.groups()
        digest = blake2b(text.encode(), key=self._digest_key).digest()
        known = self._fresh.get(key_id)
        if known and self._proven.get(digest) == known.hash:
            return known
        # Unknown ids and wrong secrets take the same way, as long: only who has a key learns that it exists.
        found = await self._keys.find(key_id)
        await self._prove(digest, found.hash if found else NOBODYS_HASH, secret, network)
        if found is None:
            raise InvalidApiKey(WRONG_KEY)
        self._fresh[key_id] = found
        return found

    async def _prove(self, digest: bytes, hashed: str, secret: str, network: str) -> None:
        """Return when a secret is that of a hash; raise when it is not, or when too many were not."""
        async with self._proving:
            if self._proven.get(digest) == hashed:
                return
            if seconds := await self._rates.wait(WRONG_KEYS, "wrong", network):
                log.warning("too many wrong keys", extra={"network": network})
                raise RateLimited(
                    f"too many wrong API keys came from your address; try again in {seconds} s",
                    retry_after_seconds=seconds,
                )
            if not await asyncio.to_thread(matches, hashed, secret):
                await self._rates.take(WRONG_KEYS, "wrong", network)
                raise InvalidApiKey(WRONG_KEY)
            self._proven[digest] = hashed
