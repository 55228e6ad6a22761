import stat
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from service.errors import InvalidLink
from service.links import Links, kept_key


def made(path: Path, seconds: int = 60, public_url: str | None = None) -> Links:
    links = Links(b"k" * 32, key_file=path / "unused", seconds=seconds, public_url=public_url)
    links.start()
    return links


def parts(url: str) -> tuple[str, str, str]:
    split = urlsplit(url)
    query = parse_qs(split.query)
    return split.path.rpartition("/")[2], query["expires"][0], query["signature"][0]


def test_a_link_is_valid_as_long_as_was_said(tmp_path: Path) -> None:
    links = made(tmp_path)
    assert 58 <= links.check(*parts(links.sign("a.png", "http://here/"))) <= 60
    old = made(tmp_path, seconds=-1)
    with pytest.raises(InvalidLink, match="expired"):
        old.check(*parts(old.sign("a.png", "http://here/")))


def test_whatever_of_a_link_is_changed_makes_it_invalid(tmp_path: Path) -> None:
    links = made(tmp_path)
    name, expires, signature = parts(links.sign("a.png", "http://here/"))
    for changed in (
        ("b.png", expires, signature),
        (name, expires + "1", signature),
        (name, "", signature),
        (name, "never", signature),
        (name, expires, signature[:-1]),
        (name, expires, ""),
        (name, expires, "é"),
    ):
        with pytest.raises(InvalidLink, match="not one of this server's"):
            links.check(*changed)


def test_a_link_of_another_key_is_invalid(tmp_path: Path) -> None:
    other = Links(b"o" * 32, key_file=tmp_path, seconds=60)
    with pytest.raises(InvalidLink):
        made(tmp_path).check(*parts(other.sign("a.png", "http://here/")))


def test_a_link_leads_to_where_the_request_came_to_or_to_the_public_address(tmp_path: Path) -> None:
    assert made(tmp_path).sign("a.png", "http://here:1/").startswith("http://here:1/v1/files/a.png?")
    public = made(tmp_path, public_url="https://pictures.example.org/base/")
    assert public.sign("a.png", "http://here/").startswith(
        "https://pictures.example.org/base/v1/files/a.png?"
    )


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key"
    key = kept_key(path)
    assert len(key) == 32
    assert kept_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_links_outlive_a_restart(tmp_path: Path) -> None:
    before, after = (Links(key_file=tmp_path / "key", seconds=60) for _ in range(2))
    before.start()
    after.start()
    assert after.check(*parts(before.sign("a.png", "http://here/"))) > 0
