"""A figure with the bar that it has to meet, and how several look on record and on the screen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value and its bar.

    Attributes:
        name: Its key in the record.
        title: What it says, in words.
        details: What it was made from, and where the time goes.
    """

    name: str
    title: str
    value: float
    wanted: Literal["at least", "at most"]
    bar: float
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_met(self) -> bool:
        """Whether the value is on the right side of its bar; one that could not be measured is not."""
        return self.value >= self.bar if self.wanted == "at least" else self.value <= self.bar

    def report(self) -> dict[str, object]:
        """Return it as plain data."""
        return {
            "title": self.title,
            "value": round(self.value, 4),
            "wanted": self.wanted,
            "bar": round(self.bar, 4),
            "met": self.is_met,
            **self.details,
        }


def report(figures: Sequence[Figure]) -> dict[str, object]:
    """Return all figures as plain data, by name."""
    return {figure.name: figure.report() for figure in figures}


def table(figures: Sequence[Figure]) -> Table:
    """Show all figures beside their bars."""
    shown = Table("figure", "value", "bar", "met")
    for each in figures:
        verdict = "[green]yes[/]" if each.is_met else "[bold red]no[/]"
        shown.add_row(each.title, f"{each.value:.4g}", f"{each.wanted} {each.bar:.4g}", verdict)
    return shown
