from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import pytest
from PIL import Image

from model.images import Format, encode_image, open_image, pixels_hash
from service import content_credentials
from service.certificates import UnusableKey, make_development_key
from service.content_credentials import ContentCredentials
from service.manifest import Source, Statement

FORMATS: tuple[Format, ...] = get_args(Format)
STATEMENT = Statement(model="tiny", weights_sha256="ab" * 32)
KEY = make_development_key()
OURS, FOREIGN = ContentCredentials(KEY), ContentCredentials(make_development_key())
PICTURE = Image.radial_gradient("L").resize((64, 64)).convert("RGB")


def signed(image_format: Format = "png", statement: Statement = STATEMENT) -> bytes:
    return OURS.sign(encode_image(PICTURE, image_format), image_format, statement, is_marked=False)


@pytest.mark.parametrize("image_format", FORMATS)
def test_what_is_signed_is_valid_and_ours_and_says_that_it_is_made_by_ai(image_format: Format) -> None:
    before = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = OURS.read(signed(image_format))
    assert (found.present, found.valid, found.trusted, found.ours) == (True, True, True, True)
    assert (found.issuer, found.common_name) == KEY.holder
    assert found.problems == []
    assert found.statement
    assert found.statement.is_ai
    assert (found.statement.model, found.statement.weights_sha256) == ("tiny", "ab" * 32)
    assert found.statement.actions == ["c2pa.created"]
    assert found.statement.time
    assert before <= found.statement.time <= datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("image_format", FORMATS)
def test_signing_leaves_every_pixel(image_format: Format) -> None:
    plain = encode_image(PICTURE, image_format)
    assert open_image(signed(image_format)).tobytes() == open_image(plain).tobytes()


@pytest.mark.parametrize("image_format", FORMATS)
def test_pixels_that_were_tampered_with_are_not_valid(image_format: Format) -> None:
    file = bytearray(signed(image_format))
    plain = encode_image(PICTURE, image_format)
    inner = plain[len(plain) // 2 : len(plain) // 2 + 32]
    file[file.index(inner) + 16] ^= 1
    found = OURS.read(bytes(file))
    assert (found.present, found.valid, found.trusted, found.ours) == (True, False, False, False)
    assert any("hash" in problem for problem in found.problems)


@pytest.mark.parametrize("image_format", FORMATS)
def test_credentials_are_gone_with_the_metadata(image_format: Format) -> None:
    stripped = encode_image(open_image(signed(image_format)), image_format)
    found = OURS.read(stripped)
    assert not found.present
    assert (found.statement, found.issuer, found.problems) == (None, None, [])


def test_a_foreign_signature_is_valid_and_not_trusted() -> None:
    found = FOREIGN.read(signed())
    assert (found.present, found.valid, found.trusted, found.ours) == (True, True, False, False)
    assert any("untrusted" in problem for problem in found.problems)
    nobody = ContentCredentials(None).read(signed())
    assert (nobody.valid, nobody.trusted) == (True, False)


def test_a_foreign_signature_is_trusted_where_its_authority_is_and_still_not_ours() -> None:
    key = make_development_key()
    found = ContentCredentials(key, anchors=KEY.anchor).read(signed())
    assert (found.valid, found.trusted, found.ours) == (True, True, False)


def test_another_holder_of_the_same_authority_is_trusted_and_not_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = ContentCredentials(KEY)
    monkeypatch.setattr(other, "_holder", ("another", "another"))
    found = other.read(signed())
    assert (found.trusted, found.ours) == (True, False)


def test_an_edit_names_its_images_and_keeps_their_credentials() -> None:
    statement = replace(
        STATEMENT,
        sources=(
            Source(pixels_sha256=pixels_hash(PICTURE), file=signed("jpeg")),
            Source(pixels_sha256="cd" * 32, file=encode_image(PICTURE, "webp")),
            Source(pixels_sha256="ef" * 32),
        ),
    )
    found = OURS.read(signed(statement=statement))
    assert (found.valid, found.problems) == (True, [])
    assert found.statement
    assert found.statement.actions == ["c2pa.opened", "c2pa.edited"]
    assert found.statement.source_types == ["compositeWithTrainedAlgorithmicMedia"]
    told = {each.identifier: each for each in found.statement.ingredients}
    assert told.keys() == {f"sha256:{each.pixels_sha256}" for each in statement.sources}
    first = told[f"sha256:{pixels_hash(PICTURE)}"]
    assert (first.relationship, first.has_credentials) == ("parentOf", True)
    assert not any(each.has_credentials for each in told.values() if each is not first)


@pytest.mark.parametrize("spoil", [lambda file: file[:900], lambda file: b"BM" + file, lambda _: b""])
def test_an_image_whose_file_cannot_be_read_is_named_all_the_same(spoil: Callable[[bytes], bytes]) -> None:
    source = Source(pixels_sha256="ab" * 32, file=spoil(signed("jpeg")))
    found = OURS.read(signed(statement=replace(STATEMENT, sources=(source,))))
    assert found.valid
    assert found.statement
    assert [each.identifier for each in found.statement.ingredients] == ["sha256:" + "ab" * 32]


def test_credentials_that_an_image_brings_do_not_swell_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_credentials, "MAX_CARRIED_BYTES", 5000)
    source = Source(pixels_sha256="ab" * 32, file=signed())
    file = signed(statement=replace(STATEMENT, sources=(source,)))
    assert len(file) < len(encode_image(PICTURE, "png")) + 5000
    found = OURS.read(file)
    assert found.statement
    assert [each.has_credentials for each in found.statement.ingredients] == [False]


@pytest.mark.parametrize("file", [b"", b"text", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"BM" * 40])
def test_a_file_without_credentials_has_none_however_odd_it_is(file: bytes) -> None:
    assert not OURS.read(file).present


def test_broken_credentials_are_present_and_not_valid() -> None:
    file = bytearray(signed("jpeg"))
    file[file.index(b"c2pa.claim") + 200] ^= 255
    found = OURS.read(bytes(file))
    assert (found.present, found.valid, found.ours) == (True, False, False)
    assert found.problems


def test_threads_may_share_a_key() -> None:
    with ThreadPoolExecutor(4) as threads:
        files = list(threads.map(lambda _: signed("webp"), range(24)))
    assert all(OURS.read(file).ours for file in files)


@pytest.mark.parametrize("wrong", [{"key": make_development_key().key}, {"certificates": KEY.anchor}])
def test_a_key_whose_signatures_would_not_be_valid_is_refused_at_once(wrong: dict[str, bytes]) -> None:
    with pytest.raises(UnusableKey, match=r"signing_certificate: .*valid now"):
        ContentCredentials(replace(KEY, **wrong))
