"""Pictures of an answer: out of it into the store, and back into it as base64 or as links."""

import base64
import time
from collections.abc import Sequence
from typing import Any

from service.links import Links
from service.schemas.answers import ImageData, ImagesAnswer, TextAnswer
from service.store import Store


async def keep_images(
    store: Store, answer: ImagesAnswer, *, job_id: str | None = None, expires: float | None = None
) -> list[str]:
    """Put an answer's pictures into the store and return their names; as Store.put."""
    files = [(base64.b64decode(image.b64_json or ""), image.mime_type) for image in answer.images]
    return [
        await store.put(file, kind.removeprefix("image/"), job_id=job_id, expires=expires)
        for file, kind in files
    ]


async def publish(store: Store, links: Links, answer: ImagesAnswer, base_url: str) -> ImagesAnswer:
    """Keep an answer's pictures as long as links are valid, and return it with links; raises as Store.put."""
    names = await keep_images(store, answer, expires=time.time() + links.seconds)
    return with_links(links, answer, names, base_url)


async def with_files(store: Store, answer: ImagesAnswer, names: Sequence[str]) -> ImagesAnswer:
    """Return an answer that holds its pictures.

    Raises:
        FileGone: One of them is no longer kept.
    """
    files = [base64.b64encode(await store.get(name)).decode() for name in names]
    return _with(answer, [{"b64_json": file, "url": None} for file in files])


def with_links(links: Links, answer: ImagesAnswer, names: Sequence[str], base_url: str) -> ImagesAnswer:
    """Return an answer that says where its pictures are."""
    return _with(answer, [{"b64_json": None, "url": links.sign(name, base_url)} for name in names])


def without_files(answer: ImagesAnswer | TextAnswer) -> dict[str, Any]:
    """Return an answer as JSON that holds no picture."""
    if isinstance(answer, ImagesAnswer):
        answer = _with(answer, [{"b64_json": None, "url": None}] * len(answer.images))
    return answer.model_dump(mode="json")


def _with(answer: ImagesAnswer, places: Sequence[dict[str, str | None]]) -> ImagesAnswer:
    images: list[ImageData] = [
        image.model_copy(update=place) for image, place in zip(answer.images, places, strict=True)
    ]
    return answer.model_copy(update={"images": images})
