"""The command line: what is missing is named, and unknown names are refused."""

from pathlib import Path

import pytest

from bench.cli import main


def test_missing_tools_are_named_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--quick"]) == 2
    assert "apt-get install wrk nginx-light" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--scenarios", "buffered,nothing"], ["--contenders", "nobody"], ["--cores", "0"]]
)
def test_what_is_not_known_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err
