"""What is told of a drawing afterwards: a receipt that makes it again, and the statement in its pictures."""

from collections.abc import Sequence
from itertools import zip_longest

from model.drawing import Drawing, Drawn
from model.images import pixels_hash
from service.engine.job import ModelCard
from service.manifest import Source, Statement
from service.schemas.answers import EnvironmentData, GuidanceData, ProvenanceData, Receipt


def statement(model: ModelCard, drawing: Drawing, files: Sequence[bytes | None]) -> Statement:
    """Return what is stated of a drawing's pictures.

    Args:
        files: Of the drawing's images, as they came; fewer if they are not at hand.
    """
    sources = [
        Source(pixels_sha256=pixels_hash(image), file=file)
        for image, file in zip_longest(drawing.images, files[: len(drawing.images)])
    ]
    return Statement(
        model=model.id, weights_sha256=model.weights_hash, sources=tuple(sources), prompt=drawing.prompt
    )


def receipt(model: ModelCard, drawing: Drawing, drawn: Drawn, provenance: ProvenanceData) -> Receipt:
    """Return what makes these pictures again."""
    can = model.capabilities
    return Receipt(
        task="edit" if drawing.images else "generate",
        model=model.id,
        family=can.family,
        weights_sha256=model.weights_hash,
        load_format=model.load_format,
        quantization=model.quantization,
        prompt=drawing.prompt,
        negative_prompt=drawing.negative_prompt,
        seed=drawn.seeds[0],
        n=len(drawn.seeds),
        size=str(drawn.size),
        solver=drawing.solver,
        grid=can.grid,
        times=list(drawn.times),
        guidance=_guidance(model, drawing, drawn),
        acceleration="exact",
        attention_backend=model.backend,
        compile=model.compile,
        dtype=model.dtype,
        device=model.device,
        environment=EnvironmentData.model_validate(model.environment, from_attributes=True),
        images_sha256=[pixels_hash(image) for image in drawing.images],
        mask_sha256=pixels_hash(drawing.mask) if drawing.mask else None,
        pixels_sha256=[pixels_hash(image) for image in drawn.images],
        provenance=provenance,
    )


def _guidance(model: ModelCard, drawing: Drawing, drawn: Drawn) -> GuidanceData:
    guidance = drawn.guidance
    branches = guidance.all_branches(has_references=bool(drawing.images))
    return GuidanceData(
        text=guidance.text,
        image=guidance.image,
        interval=guidance.interval,
        rescale=guidance.rescale,
        clock=model.capabilities.guidance_clock,
        branches=[branch.value for branch in branches],
    )
