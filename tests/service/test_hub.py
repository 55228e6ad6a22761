"""Downloads from a server of our own that answers as the Hugging Face Hub does; no network is used."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint import weights_hash
from model.errors import BadCheckpoint
from service.hub import locate, short_name, verify

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


class Hub:
    """One repository at one commit.

    Attributes:
        asked: Methods and paths of the requests that came.
        allows: Whether it answers anything but 401.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.allows = True
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.asked.append(f"{request.command} {path}")
        tree, resolve = f"/api/models/org/name/tree/{COMMIT}", f"/org/name/resolve/{COMMIT}/"
        if not self.allows:
            self.send(request, 401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask for access"})
        elif path == tree:
            files = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
            self.send(request, 200, json.dumps([self.entry(file) for file in files]).encode(), {})
        elif path.startswith(resolve) and (self.folder / path.removeprefix(resolve)).is_file():
            data = (self.folder / path.removeprefix(resolve)).read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.send(request, 200, data, headers)
        else:
            code = "RevisionNotFound" if "org/name" in path else "RepoNotFound"
            self.send(request, 404, b"", {"X-Error-Code": code, "X-Error-Message": "not here"})

    def entry(self, file: Path) -> dict[str, object]:
        """Describe a file as the hub does: weights with their SHA-256, others with the hash of git."""
        path, data = str(file.relative_to(self.folder)), file.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        told: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": blob}
        if file.suffix == ".safetensors":
            told["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}
        return told

    def send(
        self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str]
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path, model_folder: Path) -> Iterator[Hub]:
    folder = Path(shutil.copytree(model_folder, tmp_path / "repository"))
    (folder / "README.md").write_text("words")
    (folder / "assets").mkdir()
    (folder / "assets/teaser.png").write_bytes(b"picture")
    (folder / "pipeline.py").write_text("raise SystemExit")
    torch.save({"x": torch.zeros(2)}, folder / "pytorch_model.bin")
    hub = Hub(folder)
    thread = Thread(target=hub.server.serve_forever, args=(0.01,))
    thread.start()
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()


def fetch(hub: Hub, cache_dir: Path, model: str = f"org/name@{COMMIT}", *, weights: bool = True) -> Path:
    return Path(locate(model, weights=weights, endpoint=hub.url, cache_dir=cache_dir))


def names(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_what_a_model_needs_is_downloaded_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    folder = fetch(hub, tmp_path / "cache")
    assert names(folder) == names(hub.folder) - {
        "README.md",
        "assets/teaser.png",
        "pipeline.py",
        "pytorch_model.bin",
    }
    file = "model.safetensors"
    got, expected = load_file(folder / file), load_file(hub.folder / file)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_what_is_in_the_cache_is_not_asked_for_again(hub: Hub, tmp_path: Path) -> None:
    folder = fetch(hub, tmp_path / "cache")
    assert hub.asked
    hub.asked.clear()
    assert fetch(hub, tmp_path / "cache") == folder
    assert not hub.asked


def test_configs_alone_are_downloaded_for_random_weights(hub: Hub, tmp_path: Path) -> None:
    assert names(fetch(hub, tmp_path / "cache", weights=False)) == {"config.json", "tokenizer.json"}


def test_without_safetensors_bin_files_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").unlink()
    assert names(fetch(hub, tmp_path / "cache")) == {"config.json", "tokenizer.json", "pytorch_model.bin"}


def test_a_download_that_was_cut_off_goes_on(hub: Hub, tmp_path: Path) -> None:
    folder = fetch(hub, tmp_path / "cache")
    (folder / "config.json").unlink()
    assert (fetch(hub, tmp_path / "cache") / "config.json").is_file()


def test_who_only_reads_the_cache_leaves_it_as_it_is(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "cache")
    before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    fetch(hub, tmp_path / "cache")
    assert {path: path.lstat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before


def test_what_the_hub_has_is_verified(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "cache")
    verify(f"org/name@{COMMIT}", endpoint=hub.url, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_not_the_hubs_is_told_and_comes_anew(hub: Hub, tmp_path: Path, name: str) -> None:
    folder = fetch(hub, tmp_path / "cache")
    right = (folder / name).read_bytes()
    (folder / name).resolve().write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(BadCheckpoint, match=f"not what the hub has, and removed: {name}"):
        verify(f"org/name@{COMMIT}", endpoint=hub.url, cache_dir=tmp_path / "cache")
    again = fetch(hub, tmp_path / "cache")
    assert (again / name).read_bytes() == right
    verify(f"org/name@{COMMIT}", endpoint=hub.url, cache_dir=tmp_path / "cache")


def test_nothing_is_verified_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "cache")
    hub.allows = False
    with pytest.raises(BadCheckpoint, match=r"cannot be verified: .*401"):
        verify(f"org/name@{COMMIT}", endpoint=hub.url, cache_dir=tmp_path / "cache")


def test_of_a_folder_nothing_is_asked(model_folder: Path) -> None:
    verify(str(model_folder), endpoint="http://127.0.0.1:9")
    verify("hbridge-tiny", endpoint="http://127.0.0.1:9")


def hbridge_fetch(hub: Hub, tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an init container does: its model from the environment, the cache in HF_HOME."""
    environment = {
        "HBRIDGE_MODEL": f"org/name@{COMMIT}",
        "HBRIDGE_CACHE_DIR": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": hub.url,
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    command = [sys.executable, "-m", "service", "fetch"]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_command_says_the_hash_and_with_it_needs_no_hub_again(hub: Hub, tmp_path: Path) -> None:
    first = hbridge_fetch(hub, tmp_path)
    assert (first.returncode, first.stdout) == (0, f"{weights_hash(hub.folder)}\n"), first.stderr
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    again = hbridge_fetch(hub, tmp_path, HBRIDGE_WEIGHTS_SHA256=first.stdout.strip(), **away)
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr
    without = hbridge_fetch(hub, tmp_path, **away)
    assert without.returncode == 2
    assert "cannot be verified" in without.stderr


@pytest.mark.slow
def test_the_command_refuses_other_weights_than_are_expected(hub: Hub, tmp_path: Path) -> None:
    refused = hbridge_fetch(hub, tmp_path, HBRIDGE_WEIGHTS_SHA256="0" * 64)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"HBRIDGE_WEIGHTS_SHA256 expects {'0' * 64}" in refused.stderr


@pytest.mark.parametrize("revision", ["", "@", "@main", "@v1.0", f"@{COMMIT[:-1]}", f"@{COMMIT.upper()}"])
def test_an_id_needs_a_commit(hub: Hub, tmp_path: Path, revision: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"needs a commit: org/name@ and 40 hex digits"):
        fetch(hub, tmp_path, f"org/name{revision}")
    assert not hub.asked


@pytest.mark.parametrize("model", [f"org/name@{OTHER}", f"org/other@{COMMIT}"])
def test_what_the_hub_lacks_is_told_by_its_id(hub: Hub, tmp_path: Path, model: str) -> None:
    with pytest.raises(BadCheckpoint, match=f"{model} cannot be downloaded"):
        fetch(hub, tmp_path, model)


def test_a_hub_that_refuses_is_told(hub: Hub, tmp_path: Path) -> None:
    hub.allows = False
    with pytest.raises(BadCheckpoint, match=r"cannot be downloaded: .*401"):
        fetch(hub, tmp_path)


@pytest.mark.slow
def test_a_hub_that_is_away_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="cannot be downloaded"):
        locate(f"org/name@{COMMIT}", endpoint="http://127.0.0.1:9", cache_dir=tmp_path)


@pytest.mark.parametrize("model", ["hbridge-tiny", "/none/such", "./a", "../a", "./a/b", "a/b/c", "~/a"])
def test_what_is_no_id_stays_as_it_is(model: str) -> None:
    assert locate(model) == model


def test_a_folder_of_two_words_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate("org/name") == "org/name"
    assert short_name("org/name") == "name"


def test_the_name_on_the_wire_is_the_last_word() -> None:
    assert short_name(f"org/name@{COMMIT}") == "name"
    assert short_name("hbridge-tiny") == "hbridge-tiny"
    assert short_name("/models/mine/") == "mine"


@pytest.mark.slow
def test_a_picture_is_drawn_from_an_id(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["generate", "a", "-o", "a.png", "--steps", "1", "--model", f"org/name@{COMMIT}"]
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-m", "service", *arguments]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "a.png").is_file()
