import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.doctor.report import Report


def doctor(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_model_that_can_be_served_ends_with_0(model_folder: Path) -> None:
    code, output = doctor("--model", model_folder, "--size", "32x32", "--batch", 1)
    assert code == 0, output
    assert "this can be served" in output


def test_json_is_a_report_and_nothing_else(model_folder: Path) -> None:
    options = "--model", model_folder, "--quantization", "int8", "--size", "32x32", "--batch", 2, "--batch", 1
    code, output = doctor(*options, "--json")
    assert code == 0, output
    report = Report.model_validate(json.loads(output[output.index("{") :]))
    assert report.model
    assert report.model.quantization == "int8"
    assert [list(case.fits) for case in report.cases] == [[1, 2]] * len(report.cases)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--memory-gb", 0.001, "--size", "32x32"), 1, "cannot serve"),
        (("--size", "big"), 2, "big"),
        (("--dtype", "int4"), 2, "dtype"),
    ],
)
def test_what_cannot_be_ends_otherwise(
    model_folder: Path, options: tuple[object, ...], code: int, says: str
) -> None:
    found, output = doctor("--model", model_folder, *options)
    assert found == code, output
    assert says in output
