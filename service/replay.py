"""A receipt's pictures made again; and where they cannot be, what is different here."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import ValidationError

from model.drawing import Drawing, Drawn
from model.errors import BadRequest
from model.images import pixels_hash
from model.pipeline import draw
from model.request import Listener, ignore
from service.engine.job import LoadedModel, ModelCard
from service.schemas.answers import Receipt
from service.schemas.drawing import read_size

OTHER_PICTURES = frozenset({"weights_sha256", "family"})
"""Where these differ, there is no use in drawing."""

OPTIONS = {"device": "--device", "dtype": "--dtype", "model": "--model", "quantization": "--quantization"}


@dataclass(frozen=True, slots=True)
class Difference:
    """A part of the environment that is not what it was.

    Attributes:
        name: The receipt's field.
    """

    name: str
    there: object
    here: object

    def __str__(self) -> str:
        option = OPTIONS.get(self.name)
        hint = f"; try {option} {self.there}" if option else ""
        return f"{self.name}: {self.there} in the receipt, {self.here} here{hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of a receipt.

    Attributes:
        drawn: None if nothing was drawn, because the weights are others.
        is_same: Every pixel of every picture is as it was.
    """

    drawn: Drawn | None
    is_same: bool
    differences: tuple[Difference, ...]


def read_receipt(file: Path) -> Receipt:
    """Read a receipt, or the answer that it is part of.

    Raises:
        OSError: The file cannot be read.
        BadRequest: It is no receipt of this version; says why.
    """
    try:
        data = json.loads(file.read_bytes())
    except ValueError as error:
        raise BadRequest(f"{file} is not JSON") from error
    data = data.get("receipt", data) if isinstance(data, dict) else data
    if not isinstance(data, dict):
        raise BadRequest(f"{file} is no receipt; it must be an answer, or the receipt of one")
    if unknown := sorted(data.keys() - Receipt.model_fields.keys()):
        raise BadRequest(f"{file}: {', '.join(unknown)}: not known here; is it from another version?")
    try:
        return Receipt.model_validate(data)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise BadRequest(f"{file} is no receipt: {'; '.join(wrong[:8])}") from error


def to_drawing(receipt: Receipt, images: Sequence[Image] = (), mask: Image | None = None) -> Drawing:
    """Return what a receipt was for.

    Args:
        receipt: Of pictures.
        images: Of the edit, in order.
        mask: Of the edit.

    Raises:
        BadRequest: The images or the mask are not those of the receipt.
    """
    if len(images) != len(receipt.images_sha256):
        raise BadRequest(f"{len(images)} images, but the receipt is for {len(receipt.images_sha256)}")
    for index, (image, expected) in enumerate(zip(images, receipt.images_sha256, strict=True), 1):
        _check_pixels(f"image {index}", image, expected)
    if mask is None and receipt.mask_sha256 is not None:
        raise BadRequest("the edit had a mask; give it with --mask")
    if mask is not None:
        _check_pixels("the mask", mask, receipt.mask_sha256)
    guidance = receipt.guidance
    return Drawing(
        prompt=receipt.prompt,
        negative_prompt=receipt.negative_prompt,
        images=tuple(images),
        mask=mask,
        size=read_size(receipt.size, is_edit=False),
        n=receipt.n,
        seed=receipt.seed,
        num_inference_steps=len(receipt.times) - 1,
        guidance_scale=guidance.text,
        image_guidance_scale=guidance.image,
        guidance_interval=guidance.interval,
        guidance_rescale=guidance.rescale,
        solver=receipt.solver,
    )


def replay(receipt: Receipt, drawing: Drawing, model: LoadedModel, listener: Listener = ignore) -> Replayed:
    """Draw again and compare every pixel.

    Raises:
        ModelError: The model that is here cannot do it.
    """
    different = tuple(differences(receipt, model.card))
    if any(each.name in OTHER_PICTURES for each in different):
        return Replayed(drawn=None, is_same=False, differences=different)
    drawn = draw(model.family, drawing, listener)
    if list(drawn.times) != receipt.times:
        different += (Difference("times", receipt.times, list(drawn.times)),)
    is_same = [pixels_hash(image) for image in drawn.images] == receipt.pixels_sha256
    return Replayed(drawn=drawn, is_same=is_same, differences=different)


def differences(receipt: Receipt, card: ModelCard) -> Iterator[Difference]:
    """Compare where a receipt's pictures were made with what is here."""
    there, here = _environment_there(receipt), _environment_here(card)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            yield Difference(name, there.get(name), here.get(name))


def _environment_there(receipt: Receipt) -> dict[str, Any]:
    names = (
        "weights_sha256",
        "load_format",
        "quantization",
        "model",
        "family",
        "dtype",
        "device",
        "attention_backend",
        "compile",
        "grid",
    )
    environment = receipt.environment
    return {
        **{name: getattr(receipt, name) for name in names},
        "guidance.clock": receipt.guidance.clock,
        "hardware": environment.hardware,
        "num_threads": environment.num_threads,
        "num_devices": environment.num_devices,
        **{f"versions.{name}": version for name, version in environment.versions.items()},
    }


def _environment_here(card: ModelCard) -> dict[str, Any]:
    environment = card.environment
    return {
        "weights_sha256": card.weights_hash,
        "load_format": card.load_format,
        "quantization": card.quantization,
        "model": card.id,
        "family": card.capabilities.family,
        "dtype": card.dtype,
        "device": card.device,
        "attention_backend": card.backend,
        "compile": card.compile,
        "grid": card.capabilities.grid,
        "guidance.clock": card.capabilities.guidance_clock,
        "hardware": environment.hardware,
        "num_threads": environment.num_threads,
        "num_devices": environment.num_devices,
        **{f"versions.{name}": version for name, version in environment.versions.items()},
    }


def _check_pixels(name: str, image: Image, expected: str | None) -> None:
    if expected is None:
        raise BadRequest(f"{name} was not part of what the receipt is for; leave it out")
    found = pixels_hash(image)
    if found != expected:
        raise BadRequest(f"{name} is another: its pixels' SHA-256 is {found}, the receipt has {expected}")
