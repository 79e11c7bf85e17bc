"""YAML of an operator: what is read, what is refused, and that no message repeats the text."""

import itertools

import pytest

from proxy.providers.yaml_text import parse

ALPHABET = "abcdefgh"


def unfolding(first: str, rest: str) -> str:
    """Nine references to the line above on each line, so that each line unfolds to 9 times more."""
    lines = [f"a: &a {first}"]
    for above, name in itertools.pairwise(ALPHABET):
        lines.append(f"{name}: &{name} " + rest.format(",".join([f"*{above}"] * 9)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: [1, 1.5, x, ~, true]", {"a": [1, 1.5, "x", None, True]}),
        ("version: 2024-10-21", {"version": "2024-10-21"}),
        ("x: &x {a: 1}\ny: {<<: *x, a: 2}", {"x": {"a": 1}, "y": {"a": 2}}),
        ("x: &x {a: 1}\ny: [*x, *x]", {"x": {"a": 1}, "y": [{"a": 1}, {"a": 1}]}),
    ],
)
def test_what_is_read(text: str, value: object) -> None:
    assert parse(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "line 2, column 11: a name is there twice"),
        ("1: x", "a name is not text"),
        ("? [a]\n: b", "a name is not text"),
        ("a: !!python/object/apply:os.system [id]", "a tag or type that is not allowed"),
        ("a: !!binary abcd", "a tag or type that is not allowed"),
        ("a: .inf", "a number that cannot be used"),
        ("a: " + "9" * 5000, "a number that cannot be used"),
        ("a: &a [*a]", "deeper than 24 levels"),
        ("[" * 5000, "deeper than 24 levels"),
        ("a: &a 1\nb: [" + "*a," * 101 + "]", "more than 100 aliases"),
        (unfolding("[x,x,x,x,x,x,x,x,x]", "[{}]"), "unfolds to more than 50000 values"),
        (unfolding("{k: 1}", "{{<<: [{}]}}"), "more than 5000 members"),
        ("--- a\n--- b", "another document"),
        ("a: \x01", "not printable text in UTF-8"),
        ("a: 'sk-secret-in-a-string", "unexpected end of stream"),
        ("a: *sk-secret-as-alias", "found undefined alias"),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        parse(text.encode())
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)
