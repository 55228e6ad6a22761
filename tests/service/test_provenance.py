import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from model.images import Format, encode_image, open_image
from service import watermark
from service.certificates import CERTIFICATE_FILE, KEY_FILE, UnusableKey, make_development_key, write_key
from service.manifest import Statement
from service.provenance import Provenance
from service.settings import Settings
from service.tracing import Attributes, Span, Tracing, traced_by

FORMATS: tuple[Format, ...] = get_args(Format)
STATEMENT = Statement(model="tiny", weights_sha256="ab", prompt="secret words")
PICTURE = Image.radial_gradient("L").resize((64, 64)).convert("RGB")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def make(folder: Path, **fields: Any) -> Provenance:
    return Provenance(Settings(data_dir=folder, **fields))


def write(
    provenance: Provenance, image: Image.Image = PICTURE, image_format: Format = "png", **flags: Any
) -> bytes:
    return provenance.write(image, image_format, None, STATEMENT, **flags)


@pytest.mark.parametrize("image_format", FORMATS)
def test_who_configured_nothing_signs_and_marks(folder: Path, image_format: Format) -> None:
    provenance = make(folder)
    file = write(provenance, image_format=image_format)
    found = provenance.verify(file, open_image(file))
    assert found.is_ours
    assert found.content_credentials.ours
    assert found.watermark.present
    assert found.content_credentials.statement
    assert "c2pa.watermarked.unbound" in found.content_credentials.statement.actions


def test_the_plan_is_what_the_file_has(folder: Path) -> None:
    large, small = PICTURE, PICTURE.resize((48, 64))
    for fields in ({}, {"watermark": False}, {"provenance": "off"}):
        provenance = make(folder, **fields)
        for image in (large, small):
            for has_mask in (False, True):
                plan = provenance.plan(image, has_mask=has_mask)
                file = write(provenance, image, has_mask=has_mask)
                found = provenance.verify(file, open_image(file))
                assert plan.content_credentials == found.content_credentials.valid
                assert plan.watermark == found.watermark.present
                assert bool(plan.reasons) == (not plan.content_credentials or not plan.watermark)
                if not plan.watermark:
                    assert open_image(file).tobytes() == image.tobytes()


def test_turned_off_is_an_ordinary_file_and_said(folder: Path) -> None:
    provenance = make(folder, provenance="off")
    assert write(provenance) == encode_image(PICTURE)
    assert "HBRIDGE_PROVENANCE" in provenance.plan(PICTURE).reasons[0]
    assert list(folder.iterdir()) == []


def test_the_mark_is_all_that_changes_a_pixel(folder: Path) -> None:
    file = write(make(folder))
    assert open_image(file).tobytes() == watermark.mark(PICTURE).tobytes()


def test_the_mark_is_found_where_the_signature_was_lost(folder: Path) -> None:
    provenance = make(folder)
    copied = open_image(encode_image(open_image(write(provenance)), "jpeg", 80))
    found = provenance.verify(encode_image(copied, "jpeg"), copied)
    assert (found.is_ours, found.content_credentials.present, found.watermark.present) == (True, False, True)


def test_a_foreign_picture_is_not_ours(folder: Path) -> None:
    found = make(folder).verify(encode_image(PICTURE), PICTURE)
    assert not found.is_ours
    other = make(folder / "other", watermark=False)
    file = write(other)
    found = make(folder).verify(file, PICTURE)
    assert (found.is_ours, found.content_credentials.valid) == (False, True)


def test_a_server_that_no_longer_signs_knows_its_own_pictures(folder: Path) -> None:
    file = write(make(folder))
    assert make(folder, provenance="off").verify(file, PICTURE).content_credentials.ours


def test_the_prompt_is_stated_only_if_the_operator_wants_it(folder: Path) -> None:
    assert b"secret words" not in write(make(folder))
    assert b"secret words" in write(make(folder, provenance_prompt=True))


def test_an_operators_key_signs_and_no_other_is_made(folder: Path) -> None:
    key = make_development_key()
    write_key(key, folder / "mine")
    files = {
        "signing_key": folder / "mine" / KEY_FILE,
        "signing_certificate": folder / "mine" / CERTIFICATE_FILE,
    }
    provenance = make(folder / "data", **files)
    assert provenance.verify(write(provenance), PICTURE).content_credentials.ours
    assert not (folder / "data").exists()
    (folder / "anchor.pem").write_bytes(key.anchor)
    elsewhere = make(folder / "elsewhere", trust_anchors=folder / "anchor.pem")
    found = elsewhere.verify(write(provenance), PICTURE).content_credentials
    assert (found.trusted, found.ours) == (True, False)


def test_what_cannot_sign_is_refused_by_the_settings_name(folder: Path) -> None:
    (folder / "text").write_text("text")
    with pytest.raises(UnusableKey, match="signing_certificate"):
        make(folder, signing_key=folder / "text")
    with pytest.raises(UnusableKey, match="signing_key"):
        make(folder, signing_certificate=folder / "text")
    with pytest.raises(UnusableKey, match="trust_anchors"):
        make(folder, trust_anchors=folder / "text")


def test_the_development_key_is_made_and_told_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        first = make(folder)
    assert "HBRIDGE_SIGNING_KEY" in caplog.text
    assert make(folder).verify(write(first), PICTURE).content_credentials.ours


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_sign(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "file").write_text("no folder")
    provenance = make(folder / "file")
    assert "cannot be kept" in caplog.text
    assert provenance.verify(write(provenance), PICTURE).content_credentials.ours


class Recording(Tracing):
    """Writes down which spans are opened."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def span(self, name: str, attributes: Attributes) -> AbstractContextManager[Span]:
        self.names.append(name)
        return super().span(name, attributes)


def test_a_signature_is_a_span_of_its_own(folder: Path) -> None:
    signed, unsigned = Recording(), Recording()
    with traced_by(signed):
        write(make(folder))
    with traced_by(unsigned):
        write(make(folder, provenance="off"))
    assert (signed.names, unsigned.names) == (["sign"], [])
