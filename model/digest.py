"""SHA-256 of files, several at a time; what was once computed is kept as long as the file stays as it is."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

NUM_READERS = 4


def file_digests(files: Iterable[Path], kept: Path | None = None) -> list[bytes]:
    """Return the SHA-256 of each file.

    Args:
        files: What to read.
        kept: A folder for what was computed before; None computes always. A file that has the path, the size
            and the time of change that it had then is taken for the same.
    """
    with ThreadPoolExecutor(NUM_READERS, "digest") as readers:
        return list(readers.map(partial(_digest, kept=kept), files))


def _digest(file: Path, kept: Path | None) -> bytes:
    status = file.stat()
    seen = [str(file.resolve()), status.st_size, status.st_mtime_ns]
    note = kept and kept / f"{hashlib.sha256(str(seen[0]).encode()).hexdigest()[:32]}.json"
    if note:
        with suppress(OSError, ValueError, LookupError, TypeError):
            content = json.loads(note.read_text(encoding="utf-8"))
            if content["file"] == seen:
                return bytes.fromhex(content["sha256"])
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").digest()
    if note:
        # It is only there to save time: a folder that cannot be written costs nothing else.
        with suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps({"file": seen, "sha256": digest.hex()}), encoding="utf-8")
    return digest
