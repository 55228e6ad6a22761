"""Links to pictures: signed, so that only who was given one can follow it, and valid for a while."""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from service.errors import InvalidLink

KEY_BYTES = 32


class Links:
    """Makes and checks links to files of the store.

    Args:
        key: What links are signed with.
        key_file: Where the key is, or will be, kept when none is given.
        seconds: How long a link is valid.
        public_url: Where clients reach this service, when that is not where a request came to.
    """

    def __init__(
        self, key: bytes | None = None, *, key_file: Path, seconds: int, public_url: str | None = None
    ) -> None:
        self._key = key or b""
        self._key_file = key_file
        self.seconds = seconds
        self._public_url = public_url

    def start(self) -> None:
        """Read the key, or make it.

        Raises:
            OSError: It cannot be read or made.
        """
        self._key = self._key or kept_key(self._key_file)

    def sign(self, name: str, base_url: str) -> str:
        """Return a link to a file.

        Args:
            base_url: Where the request came to that asks for it.
        """
        expires = str(int(time.time()) + self.seconds)
        base = (self._public_url or base_url).rstrip("/")
        return f"{base}/v1/files/{name}?expires={expires}&signature={self._signature(name, expires)}"

    def check(self, name: str, expires: str, signature: str) -> int:
        """Return for how many seconds more a link is valid.

        Raises:
            InvalidLink: It is not, or was not made here.
        """
        if not hmac.compare_digest(self._signature(name, expires).encode(), signature.encode()):
            raise InvalidLink("the link is not one of this server's", param="signature")
        left = int(expires) - int(time.time())
        if left <= 0:
            raise InvalidLink("the link has expired; ask for the job again for a new one", param="expires")
        return left

    def _signature(self, name: str, expires: str) -> str:
        digest = hmac.new(self._key, f"{name}?{expires}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def kept_key(path: Path) -> bytes:
    """Return the key in a file that only its owner reads; the first to ask makes it.

    Raises:
        OSError: It cannot be read or made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        draft.touch(mode=0o600)
        draft.write_bytes(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):  # somebody else was first
            os.link(draft, path)
        draft.unlink()
    return path.read_bytes()
