"""Checkpoints of the Hugging Face Hub: downloaded once, at a commit, into the cache that all its tools share.

Where the hub is, where its cache is, and who asks is the library's to know: HF_ENDPOINT, HF_HOME, HF_TOKEN.
"""

import logging
import re
import sys
import time
from pathlib import Path

from model.errors import BadCheckpoint

ID = re.compile(r"(?P<repo>\w[\w.-]*/[\w.-]+)(@(?P<revision>.*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIGS = ("*.json", "*.jinja")
WEIGHTS = ("*.safetensors",)
OLDER_WEIGHTS = ("*pytorch_model*.bin",)

log = logging.getLogger(__name__)


def locate(
    model: str, *, weights: bool = True, endpoint: str | None = None, cache_dir: Path | None = None
) -> str:
    """Return a folder or short name as it is, and of a Hugging Face id the folder that it is downloaded to.

    An id is two words with a slash between them that are no folder here, with a commit after an @. What is in
    the cache already is not asked for again.

    Args:
        model: As an operator names it.
        weights: Whether they are needed too, or configs and tokenizer alone.
        endpoint: The hub's address; None takes the library's.
        cache_dir: Where to; None takes the library's.

    Raises:
        BadCheckpoint: The id names no commit, or it cannot be downloaded.
    """
    found = ID.fullmatch(model)
    if not found or Path(model).is_dir():
        return model
    if not COMMIT.fullmatch(found["revision"] or ""):
        raise BadCheckpoint(
            f"{model} is no folder, and a Hugging Face id needs a commit: {found['repo']}@ and 40 hex digits"
        )
    patterns = CONFIGS + WEIGHTS if weights else CONFIGS
    folder = _download(found["repo"], found["revision"], patterns, endpoint, cache_dir)
    if weights and not any(folder.rglob(WEIGHTS[0])):
        folder = _download(found["repo"], found["revision"], CONFIGS + OLDER_WEIGHTS, endpoint, cache_dir)
    return str(folder)


def verify(model: str, *, endpoint: str | None = None, cache_dir: Path | None = None) -> None:
    """Compare the files of a Hugging Face id that are here with the checksums that the hub states.

    What differs is removed, so that it is downloaded anew the next time. Nothing is asked of a folder or a
    short name.

    Args:
        model: As locate takes it.
        endpoint: The hub's address; None takes the library's.
        cache_dir: Where its files are; None takes the library's.

    Raises:
        BadCheckpoint: Files differ, or the hub does not answer.
    """
    found = ID.fullmatch(model)
    if not found or Path(model).is_dir():
        return
    from huggingface_hub import HfApi  # noqa: PLC0415 - only for who names an id

    try:
        told = HfApi(endpoint).verify_repo_checksums(
            found["repo"], revision=found["revision"], cache_dir=cache_dir
        )
    except Exception as error:  # they have no common root
        raise BadCheckpoint(f"{model} cannot be verified: {_reason(error)}") from error
    wrong = [mismatch["path"] for mismatch in told.mismatches]
    for path in wrong:
        link = told.verified_path / path
        link.resolve().unlink()
        link.unlink(missing_ok=True)
    if wrong:
        raise BadCheckpoint(f"{model}: not what the hub has, and removed: {', '.join(wrong)}; fetch it again")


def short_name(model: str) -> str:
    """Return the model's name on the wire: the short name, the folder's, or the id's last word."""
    found = ID.fullmatch(model)
    if found and found["revision"] and not Path(model).is_dir():
        return found["repo"].partition("/")[2]
    return Path(model).resolve().name


def _download(
    repo: str, commit: str, patterns: tuple[str, ...], endpoint: str | None, cache_dir: Path | None
) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for who names an id
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # noqa: PLC0415

    if not sys.stderr.isatty():
        disable_progress_bars()
    begun = time.perf_counter()
    try:
        folder = snapshot_download(
            repo, revision=commit, allow_patterns=list(patterns), endpoint=endpoint, cache_dir=cache_dir
        )
    except Exception as error:  # they have no common root
        raise BadCheckpoint(f"{repo}@{commit} cannot be downloaded: {_reason(error)}") from error
    log.info("downloaded", extra={"model": repo, "seconds": round(time.perf_counter() - begun, 3)})
    return Path(folder)


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
