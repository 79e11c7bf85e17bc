"""proxy/cli/output.py: whole ids, plain words, no markup out of data."""

import json
from typing import Any

import pytest

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
