"""proxy/cli/local_settings.py: never loses a line, never changes a value, never readable by
others."""

import os
import stat
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli import local_settings


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_lookup_environment_then_file_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_settings.lookup("PORT", "1") == "1"
    Path(".env").write_text("PORT=2\nHOST=\n")
    assert local_settings.lookup("PORT", "1") == "2"
    assert local_settings.lookup("HOST", "h") == "h"
    monkeypatch.setenv("PORT", " ")
    assert local_settings.lookup("PORT", "1") == "2"
    monkeypatch.setenv("PORT", "3")
    assert local_settings.lookup("PORT", "1") == "3"


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new.env"
    local_settings.add(path, {"A": "1", "B": "2"})
    assert path.read_text() == "A=1\nB=2\n"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nA=old\nB=\nexport C = \nD='x'")
    path.chmod(0o644)
    local_settings.add(path, {"A": "new", "B": "2", "C": "3", "E": "5"})
    assert path.read_text() == "# mine\nA=old\nD='x'\nB=2\nC=3\nE=5\n"
    assert mode(path) == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("A=1\n")
    link.symlink_to(real)
    local_settings.add(link, {"B": "2"})
    assert link.is_symlink()
    assert real.read_text() == "A=1\nB=2\n"


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        local_settings.add(path, {"B": "2"})
    assert path.read_text() == "A=1\n"
    assert list(tmp_path.iterdir()) == [path]


@given(value=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_any_printable_value_reads_back_as_it_was(tmp_path: Path, value: str) -> None:
    path = tmp_path / "round.env"
    path.unlink(missing_ok=True)
    local_settings.add(path, {"VALUE": value})
    assert dotenv_values(path, interpolate=False) == {"VALUE": value}
