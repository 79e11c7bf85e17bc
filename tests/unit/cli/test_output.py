"""proxy/cli/output.py: whole ids, plain words, no markup out of data."""

import json
from typing import Any

import pytest
from rich.console import Console

from proxy.cli import output


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        ("x", "x"),
        ({"a": 1}, '{"a":1}'),
        ("[red]x[/red]", "\\[red]x\\[/red]"),
        ("two\nlines, caf\u00e9", "two\nlines, caf\u00e9"),
        ("\x1b]0;title\x07\r\x9b2J\u202e", "\\x1b]0;title\\x07\\r\\x9b2J\\u202e"),
        ({"a": "\x9b2J"}, '{"a":"\\x9b2J"}'),
    ],
)
def test_text(value: Any, expected: str) -> None:
    assert output.text(value) == expected


def test_a_table_in_a_pipe_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": "i" * 36, "project_id": "p" * 36, "name": "[b]n[/b]" * 5, "created_at": "c" * 27}
    output.table([row, {"id": None}], {name: name.title() for name in row})
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["Id", "Project_Id", "Name", "Created_At"]
    assert first.split() == list(row.values())
    assert second.split() == ["-"] * 4


def test_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    output.record({"id": "1", "is_active": True})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["id", "1"],
        ["is_active", "yes"],
    ]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.as_json([{"a": "ü"}])
    assert json.loads(capsys.readouterr().out) == [{"a": "ü"}]
    assert output.compact({"a": [1]}) == '{"a":[1]}'


@pytest.mark.parametrize(("width", "rows_are_lines"), [(100, True), (60, False)])
def test_a_table_that_does_not_fit_a_terminal_is_printed_as_records(
    width: int,
    rows_are_lines: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=width, highlight=False))
    ids = ["0b3a7c5e-0000-4000-8000-000000000001", "0b3a7c5e-0000-4000-8000-000000000002"]
    rows = [{"id": each, "parent_id": each, "name": "a"} for each in ids]
    output.table(rows, {"id": "Id", "parent_id": "Parent", "name": "Name"})
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    if rows_are_lines:
        assert [line.split() for line in lines[1:]] == [[each, each, "a"] for each in ids]
    else:
        first, second = lines[:3], lines[4:]
        assert [line.split() for line in first] == [
            ["Id", ids[0]],
            ["Parent", ids[0]],
            ["Name", "a"],
        ]
        assert [line.split()[1] for line in second] == [ids[1], ids[1], "a"]
