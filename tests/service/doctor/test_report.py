"""The form of a report is frozen; write it anew with `python -m tests.service.doctor.test_report`."""

import json
from pathlib import Path

from service.doctor.report import Report

FROZEN = Path(__file__).parent / "report.json"


def test_the_form_is_what_it_was() -> None:
    said = "if it is meant: python -m tests.service.doctor.test_report"
    assert Report.model_json_schema() == json.loads(FROZEN.read_text()), said


def test_a_report_comes_back_from_json_as_it_was(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(Report.model_json_schema(), indent=2) + "\n")
