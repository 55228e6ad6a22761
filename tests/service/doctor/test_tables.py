from io import StringIO

from rich.console import Console

from service.doctor.report import Report
from service.doctor.tables import show


def shown(report: Report) -> str:
    screen = StringIO()
    show(report, Console(file=screen, width=80))
    return screen.getvalue()


def test_everything_that_matters_is_shown(report: Report) -> None:
    text = shown(report)
    assert report.model
    for part in report.model.parts:
        assert f"{part.name} " in text
    for case in report.cases:
        assert case.size in text
    words = " ".join(text.split())
    for backend, verdict in report.machine.attention_backends.items():
        assert f"{backend} {verdict}" in words
    for extra in report.machine.extras:
        assert (f"hbridge[{extra.extra}]" in text) or extra.is_installed
    assert "a real step" in text
    assert "this can be served" in text
    assert "…" not in text


def test_what_is_wrong_comes_last(report: Report) -> None:
    changed = {"can_serve": False, "reasons": ["a [reason]"], "advice": ["take --this"], "measured": None}
    lines = shown(report.model_copy(update=changed)).splitlines()
    assert lines[-2:] == ["advice: take --this", "cannot serve: a [reason]"]


def test_without_a_model_the_machine_is_shown(report: Report) -> None:
    changed = {"model": None, "cases": [], "speed": None, "measured": None}
    assert report.machine.hardware in shown(report.model_copy(update=changed))
