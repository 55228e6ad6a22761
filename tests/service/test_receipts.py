from collections.abc import Callable
from typing import Any

from PIL import Image

from model.drawing import Drawing
from model.images import open_image, pixels_hash
from model.pipeline import draw
from service.engine.job import LoadedModel
from service.receipts import receipt, statement
from service.schemas.answers import ProvenanceData, Receipt

SIGNED = ProvenanceData(content_credentials=True, watermark=False, reasons=["small"])


def made(loaded: LoadedModel, **fields: Any) -> tuple[Drawing, Receipt]:
    drawing = Drawing(prompt="a", num_inference_steps=1, seed=3, **fields)
    return drawing, receipt(loaded.card, drawing, draw(loaded.family, drawing), SIGNED)


def test_a_receipt_names_where_and_from_what_the_pictures_were_made(
    loaded: LoadedModel, png: Callable[..., bytes]
) -> None:
    image, mask = open_image(png()), Image.new("1", (32, 32), 1)
    drawing, found = made(loaded, images=(image,), mask=mask)
    assert (found.task, found.provenance) == ("edit", SIGNED)
    assert found.images_sha256 == [pixels_hash(image)]
    assert found.mask_sha256 == pixels_hash(mask)
    assert found.pixels_sha256 == [pixels_hash(each) for each in draw(loaded.family, drawing).images]
    assert found.environment.versions == loaded.card.environment.versions
    assert found.environment.num_threads == loaded.card.environment.num_threads


def test_a_receipt_goes_through_json_as_it_is(loaded: LoadedModel) -> None:
    _, found = made(loaded, n=2)
    assert (found.task, found.images_sha256, found.mask_sha256) == ("generate", [], None)
    assert len(set(found.pixels_sha256)) == 2
    assert Receipt.model_validate_json(found.model_dump_json()) == found


def test_a_statement_has_every_image_whether_its_file_is_at_hand_or_not(
    loaded: LoadedModel, png: Callable[..., bytes]
) -> None:
    images = tuple(open_image(png(32, 32, colour)) for colour in ("red", "blue"))
    drawing = Drawing(prompt="a", images=images)
    for files in ([], [png()], [png(), None], [None, png(), png()]):
        stated = statement(loaded.card, drawing, files)
        assert [each.pixels_sha256 for each in stated.sources] == [pixels_hash(image) for image in images]
        assert [each.file for each in stated.sources] == [*files, None, None][:2]
