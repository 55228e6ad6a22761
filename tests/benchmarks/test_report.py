from pathlib import Path

import typer
from PIL import Image
from typer.testing import CliRunner

from benchmarks.device.record import Record, read_record
from benchmarks.report import NONE_YET, PAGE, RESULTS, main, page

ROOT = Path(__file__).parents[2]


def run(folder: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [str(folder)])
    assert result.exit_code == 0, result.output


def test_a_record_becomes_a_page_and_a_plot(record: Record, tmp_path: Path) -> None:
    record.write(tmp_path / "gpu-a-card.json")
    run(tmp_path)
    text = (tmp_path / PAGE).read_text()
    for title in (
        "A card",
        "Goals",
        "Ceilings",
        "Whole pictures",
        "One packed step",
        "Checks",
        "Not measured",
    ):
        assert f"# {title}\n" in text
    assert "| soon | 1 s | 0.5 s | 0.50 | 0.25 s | 2.00 | x |" in text
    assert "RuntimeError: no" in text
    assert "gemm | 8 | 0.4 | 88.9%" in text
    assert "![Steps and gaps](gpu-a-card.png)" in text
    with Image.open(tmp_path / "gpu-a-card.png") as picture:
        assert min(picture.size) > 400


def test_every_line_of_a_table_has_as_many_cells_as_its_head(record: Record, tmp_path: Path) -> None:
    lines = page({tmp_path / "gpu-a-card.json": record}).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    width = 0
    for line, after in zip(tables, [*tables[1:], ""], strict=True):
        if after.startswith("| ---"):
            width = line.count("|")
        assert line.count("|") == width


def test_without_records_the_page_says_that_nothing_was_measured(tmp_path: Path) -> None:
    run(tmp_path)
    assert NONE_YET in (tmp_path / PAGE).read_text()


def test_the_committed_page_is_that_of_the_committed_records() -> None:
    records = {path: read_record(path) for path in sorted((ROOT / RESULTS).glob("gpu-*.json"))}
    assert (ROOT / RESULTS / PAGE).read_text() == page(records)
    assert all(record.size == "full" for record in records.values())
