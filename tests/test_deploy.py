"""Images and Compose files agree with the project: versions, settings, one way to say each."""

import re
from pathlib import Path

import pytest

from service.settings import Settings

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)
LOCKS = ("requirements.txt", "requirements-cuda.txt", "requirements-build.txt")
OF_COMPOSE = {"HBRIDGE_IMAGE"}
"""Variables that compose.yaml reads itself; HBRIDGE_PORT there is the machine's."""


def pins(path: str) -> dict[str, str]:
    """Return versions by name, as PyPI compares names."""
    found = PIN.findall((ROOT / path).read_text(encoding="utf-8"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("lock", LOCKS)
def test_an_image_has_the_versions_that_are_tested(lock: str) -> None:
    tested = pins("constraints.txt")
    locked = pins(f"docker/{lock}")
    assert len(locked) > 10
    assert {name: version for name, version in locked.items() if tested.get(name, version) != version} == {}


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_that_an_image_installs_has_a_hash(lock: str) -> None:
    text = (ROOT / "docker" / lock).read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-z])", text)[1:]
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert len(blocks) == len(pins(f"docker/{lock}"))


def test_the_processors_pytorch_is_the_one_that_is_tested() -> None:
    (version,) = re.findall(
        r"^ARG TORCH=torch==(\S+)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE
    )
    assert version == pins("constraints.txt")["torch"]


def test_images_and_compose_files_set_what_there_is_to_set() -> None:
    files = [ROOT / "docker/Dockerfile", *ROOT.glob("compose*.yaml")]
    named = set(re.findall(r"HBRIDGE_[A-Z_]+", "".join(path.read_text() for path in files))) - OF_COMPOSE
    assert len(named) >= 5
    assert {name.removeprefix("HBRIDGE_").lower() for name in named} <= Settings.model_fields.keys()
