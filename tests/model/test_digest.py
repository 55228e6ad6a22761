import hashlib
import os
from pathlib import Path

import pytest

from model.digest import file_digests


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / name for name in "abcdefg"]
    for file in files:
        file.write_text(file.name)
    return files


def test_each_file_has_its_own_hash_in_order(files: list[Path]) -> None:
    expected = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    assert file_digests(files) == expected


def test_a_file_that_stays_is_read_once(files: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "deep"
    before = file_digests(files, kept)
    seen = files[0].stat()
    files[0].write_text("A")
    os.utime(files[0], ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert file_digests(files, kept) == before
    assert file_digests(files) != before


def test_a_file_that_changes_is_read_again(files: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    before = file_digests(files, kept)
    files[0].write_text("longer")
    assert file_digests(files, kept) == file_digests(files) != before


def test_a_broken_note_is_as_none(files: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    before = file_digests(files, kept)
    for note, junk in zip(sorted(kept.iterdir()), ("", "{}", "[]", '{"file": 1}', "\x00"), strict=False):
        note.write_text(junk)
    assert file_digests(files, kept) == before


def test_a_folder_that_cannot_be_written_costs_only_time(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert file_digests(files, tmp_path / "file" / "kept") == file_digests(files)
