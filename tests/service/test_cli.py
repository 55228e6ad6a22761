import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from model.drawing import Drawing
from model.pipeline import draw
from service.cli import UNPACKAGED, remedy
from service.engine.job import LoadedModel


def test_generate_writes_the_pipelines_pixels(
    run: Callable[..., tuple[int, str]], tmp_path: Path, loaded: LoadedModel
) -> None:
    path = tmp_path / "a.png"
    code, output = run("generate", "a red circle", "-o", path, "--seed", 3, "--size", "32x32", "--steps", 2)
    assert code == 0, output
    assert "seed 3" in output
    drawn = draw(loaded.family, Drawing(prompt="a red circle", seed=3, num_inference_steps=2))
    with Image.open(path) as image:
        assert image.tobytes() == drawn.images[0].tobytes()


def test_n_pictures_are_n_files(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    assert run("generate", "a", "-o", tmp_path / "a.webp", "-n", 2, "--steps", 1, "--guidance", 2)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-0.webp", "a-1.webp"]


def test_edit_takes_one_picture_or_more(
    run: Callable[..., tuple[int, str]], tmp_path: Path, png: Callable[..., bytes]
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    output = tmp_path / "c.png"
    assert run("edit", tmp_path / "a.png", "make it blue", "-o", output, "--steps", 1)[0] == 0
    assert run("edit", tmp_path / "a.png", tmp_path / "b.png", "join", "-o", output, "--steps", 1)[0] == 0
    with Image.open(output) as image:
        assert image.size == (32, 32)


def test_understand_writes_the_answer(
    run: Callable[..., tuple[int, str]], tmp_path: Path, png: Callable[..., bytes]
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    code, output = run("understand", tmp_path / "a.png", "What is it?", "--max-tokens", 3)
    assert code == 0, output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "a", "-o", "none/a.png"], "folder"),
        (["generate", "a", "-o", "a.gif"], "png"),
        (["generate", "a", "-o", "a.png", "--size", "big"], "size"),
        (["generate", "a", "-o", "a.png", "--size", "33x32"], "multiples"),
        (["generate", "a", "-o", "a.png", "--steps", "0"], "num_inference_steps"),
        (["generate", "a", "-o", "a.png", "--seed", "-1"], "seed"),
        (["generate", "a", "-o", "a.png", "--solver", "heun"], "solver"),
        (["generate", "a", "-o", "a.png", "--model", "nowhere"], "nowhere"),
        (["generate", "a", "-o", "a.png", "--device", "tpu"], "device"),
        (["generate", "a", "-o", "a.png", "--dtype", "int8"], "dtype"),
        (["generate", "a", "-o", "a.png", "-n", "9"], "-n"),
        (["generate", "a"], "-o"),
        (["edit", "none.png", "a", "-o", "a.png"], "none.png"),
        (["edit", "a.txt", "a", "-o", "a.png"], "read"),
        (["understand", "none.png", "a"], "none.png"),
        (["understand", "[/none].png", "a"], "[/none].png"),
        (["serve", "--port", "70000"], "port"),
        (["serve", "--model", "nowhere", "--port", "0", "--engine", "inline"], "nowhere"),
        (["serve", "--engine", "steam"], "engine"),
        (["serve", "--load-format", "guess"], "load_format"),
        (["serve", "--model", "org/name"], "needs a commit"),
        (["serve", "--model", "omnigen2", "--port", "0", "--engine", "inline"], "only configs"),
        (["convert", "none", "none", "out"], "none is no folder"),
        (["convert", "hbridge-tiny", "hbridge-tiny", "out", "--start", "warm"], "warm"),
        (["size", "poodle"], "poodle"),
        (["paint"], "paint"),
    ],
)
def test_a_fault_of_the_users_is_said_in_a_line(
    run: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("no picture")
    code, output = run(*arguments)
    assert code == 2, output
    assert words in output
    assert "Traceback" not in output
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_is_converted_draws(
    run: Callable[..., tuple[int, str]], qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path
) -> None:
    limits = {"max_side": 64, "max_pixels": 4096, "default_size": [32, 32], "min_side": 16}
    fields = {"skip_first": 1, "skip_last": 1, "srt_count": 4, "limits": limits}
    (tmp_path / "fields.json").write_text(json.dumps(fields))
    out, picture = tmp_path / "hbridge", tmp_path / "a.png"
    code, output = run("convert", qwen_folder, omnigen2_folder, out, "--config", tmp_path / "fields.json")
    assert code == 0, output
    code, output = run("generate", "a circle", "-o", picture, "--steps", 1, "--model", out)
    assert code == 0, output
    assert picture.is_file()
    code, output = run("size", out)
    assert code == 0
    assert "| bridge |" in output


@pytest.mark.timeout(300)
def test_serve_runs_the_engine_in_a_process_of_its_own_and_ends_well_on_a_signal(
    model_folder: Path, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    tmp_path.chmod(0o500)
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--model", str(model_folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        found = next(match for line in lines if (match := re.search(r"ready at (http://\S+)", line)))
        body = {"prompt": "a", "seed": 3, "num_inference_steps": 2, "response_format": "binary"}
        answer = httpx.post(f"{found[1]}/v1/generate", json=body, timeout=60)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    drawn = draw(loaded.family, Drawing(prompt="a", seed=3, num_inference_steps=2))
    with Image.open(BytesIO(answer.content)) as image:
        assert image.tobytes() == drawn.images[0].tobytes()
    assert len(children) == 1
    assert not Path(f"/proc/{children[0]}").exists()
    assert process.returncode == 0


@pytest.mark.parametrize("package", UNPACKAGED)
def test_what_no_package_holds_is_asked_for_in_a_checkout(package: str) -> None:
    missing = ModuleNotFoundError(f"No module named '{package}.cli'", name=f"{package}.cli")
    assert "checkout" in remedy(missing, "train", "train")
    assert "install hbridge" in remedy(
        ModuleNotFoundError("No module named 'scipy'", name="scipy"), "a", "train"
    )
