"""Secrets in files: one for all workers of a node, for their user alone."""

import os
from pathlib import Path

import pytest

from proxy.crypto.secret_file import SECRET_BYTES, secret_in


def test_it_is_made_once(tmp_path: Path) -> None:
    made = secret_in(tmp_path / "a.key")
    assert len(made) == SECRET_BYTES
    assert secret_in(tmp_path / "a.key") == made
    assert secret_in(tmp_path / "b.key") != made


def test_it_is_its_owner_s_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    secret_in(tmp_path / "a.key")
    (file,) = tmp_path.iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("a.key", 0o600)


def test_workers_that_start_together_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[bytes] = []
    real = os.fsync

    def meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", real)
        others.append(secret_in(tmp_path / "a.key"))

    monkeypatch.setattr(os, "fsync", meanwhile)
    assert [secret_in(tmp_path / "a.key")] == others
    assert [path.name for path in tmp_path.iterdir()] == ["a.key"]


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_damaged_one_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.key").write_bytes(content)
    with pytest.raises(ValueError, match="expected 32") as caught:
        secret_in(tmp_path / "a.key")
    assert "short" not in str(caught.value)
    assert (tmp_path / "a.key").read_bytes() == content


def test_a_folder_that_takes_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        secret_in(tmp_path / "absent" / "a.key")
