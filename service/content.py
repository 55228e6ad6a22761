"""What a request says, in plain data: for operators who ask to see it in logs and traces."""

from typing import Any

from PIL.Image import Image

from model.drawing import Drawing
from model.question import Question


def content_of(work: Drawing | Question) -> dict[str, Any]:
    """Return the words of a request by what they are; of images there is only the size."""
    if isinstance(work, Question):
        turns = [{"role": turn.role, "parts": [_plain(part) for part in turn.parts]} for turn in work.turns]
        return {"messages": turns}
    words = {"prompt": work.prompt, "negative_prompt": work.negative_prompt}
    return words | {"images": [_plain(image) for image in work.images]}


def _plain(part: str | Image) -> str:
    return part if isinstance(part, str) else f"image {part.width}x{part.height}"
