"""One examination of the shipped checkpoint for all tests that look at a report."""

import pytest

from service.doctor.examine import Ask, examine
from service.doctor.report import Report
from service.settings import Settings


@pytest.fixture(scope="session")
def report() -> Report:
    return examine(Settings(), Ask(counts=(1, 4)))
