import runpy

import pytest


def test_the_module_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hbridge", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("service", run_name="__main__")
    assert end.value.code == 0
    assert "serve" in capsys.readouterr().out
