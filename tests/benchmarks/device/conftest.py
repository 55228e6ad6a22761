from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _works_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that are started find what they run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
