"""Latents of reference images kept by content, so that an image that is edited again is encoded once.

Tenants are served apart, also where their images are equal, as in prefix_cache.py.

Used on the engine's thread only: there are no locks.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress

from cachetools import LRUCache
from PIL.Image import Image
from torch import Tensor

from model.family import Family


class ReferenceCache:
    """Latents of one family in a byte budget; the least recently used goes first.

    What a drawing uses stays its own, kept here or not.
    """

    def __init__(self, family: Family, *, max_bytes: int) -> None:
        self._family = family
        self._latents: LRUCache[bytes, Tensor] = LRUCache(max_bytes, getsizeof=lambda latent: latent.nbytes)

    @property
    def num_bytes(self) -> int:
        """Memory of all latents that are kept."""
        return int(self._latents.currsize)

    def encode(self, images: Sequence[tuple[str, Image]]) -> list[Tensor]:
        """Return latents [C, Y, X] of images, in their order; equal images of a tenant are encoded once.

        Args:
            images: Each beside the tenant whose it is.
        """
        keys = [_key(image) + tenant.encode() for tenant, image in images]
        known = {key: latent for key in keys if (latent := self._latents.get(key)) is not None}
        missing = {key: image for key, (_, image) in zip(keys, images, strict=True) if key not in known}
        for key, latent in zip(missing, self._family.encode(list(missing.values())), strict=True):
            known[key] = latent
            with suppress(ValueError):  # larger than all that may be kept
                self._latents[key] = latent
        return [known[key] for key in keys]


def _key(image: Image) -> bytes:
    content = hashlib.sha256(f"{image.mode} {image.size}".encode())
    content.update(image.tobytes())
    return content.digest()
