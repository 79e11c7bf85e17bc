"""proxy/usage/pricing.py: which price is a model's, what it makes, and every mistake in a file."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from proxy.usage.pricing import Price, PriceList, from_file
from tests.support.paths import ROOT


def file(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "prices.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def prices(tmp_path: Path, **models: Any) -> PriceList:
    return from_file(file(tmp_path, {"currency": "EUR", "models": models}))


def price(number: float, output: float = 0) -> dict[str, float]:
    return {"input": number, "output": output}


def test_reads_a_file(tmp_path: Path) -> None:
    text = '{"currency": "USD", "models": {"m": {"input": 0.15, "cached_input": 0, "output": 6}}}'
    found = from_file(file(tmp_path, text))
    assert found.currency == "USD"
    assert found.find("m") == Price(Decimal("0.15"), Decimal(0), Decimal(6))
    assert found.find("M") is None
    assert found.find("mm") is None


def test_cached_input_costs_what_input_does_by_default(tmp_path: Path) -> None:
    found = prices(tmp_path, m=price(2.5, 1)).find("m")
    assert found is not None
    assert found.cached_input == Decimal("2.5")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("big", 1),
        ("big-1", 2),
        ("big-small", 3),
        ("big-small-1", 3),
        ("big-small-2", 4),
        ("x.y", 5),
        ("xzy", None),
        ("bi", None),
        ("a-1", 6),
        ("a-12", None),
        ("", None),
    ],
)
def test_the_name_itself_then_the_pattern_with_most_letters(
    tmp_path: Path, model: str, expected: int | None
) -> None:
    found = prices(
        tmp_path,
        **{
            "big*": price(2),
            "big": price(1),
            "big-small*": price(3),
            "big-small-2": price(4),
            "x.y": price(5),
            "a-?": price(6),
        },
    ).find(model)
    assert (found and found.input) == expected


def test_of_patterns_alike_the_first_of_the_file(tmp_path: Path) -> None:
    found = prices(tmp_path, **{"a*c": price(1), "*ac": price(2)}).find("ac")
    assert found is not None
    assert found.input == 1


@pytest.mark.parametrize(
    ("counts", "cost"),
    [
        ((0, 0, 0), "0"),
        ((1_000_000, 0, 0), "3"),
        ((1_000_000, 1_000_000, 0), "0.3"),
        ((1_000_000, 400_000, 2_000_000), "31.92"),
        ((1, 0, 1), "0.000018"),
        ((5, 10, 0), "0.000003"),
        ((10**15, 0, 1), "3000000000.000015"),
    ],
)
def test_costs_are_exact(counts: tuple[int, int, int], cost: str) -> None:
    assert Price(Decimal(3), Decimal("0.3"), Decimal(15)).cost(*counts) == Decimal(cost)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["expected a JSON file"]),
        ("{", ["expected a JSON file"]),
        ("[" * 100_000, ["expected a JSON file"]),
        ("[]", ['expected {"currency"']),
        ('{"models": {}}', ["currency: expected"]),
        ('{"currency": "usd", "models": {}}', ["currency: expected"]),
        ('{"currency": "USD"}', ["models: expected"]),
        ('{"currency": "USD", "models": []}', ["models: expected"]),
        ('{"currency": "USD", "models": {}, "model": {}}', ["unknown name 'model'"]),
        ('{"currency": "USD", "models": {"m": {}}}', ["models['m']: expected input and output"]),
        ('{"currency": "USD", "models": {"m": {"input": 1}}}', ["expected input and output"]),
        ('{"currency": "USD", "models": {"m": 3}}', ["models['m']: expected input and output"]),
        ('{"currency": "USD", "models": {"m": {}, "m": {}}}', ["'m' is there twice"]),
        ('{"models": {"a": {"input": -1, "output": "2"}}}', ["currency", ".input", ".output"]),
        (
            '{"currency": "USD", "models": {"m": {"input": 1, "output": 1, "outputs": 1}}}',
            ["models['m']: unknown name 'outputs'"],
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        from_file(file(tmp_path, content))
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "number", ["-1", "1000001", "0.0000001", "1e-999999999", "1e999999999", "NaN", "true", '"1"']
)
def test_no_price(tmp_path: Path, number: str) -> None:
    text = f'{{"currency": "USD", "models": {{"m": {{"input": {number}, "output": 1}}}}}}'
    with pytest.raises(ValueError, match="expected"):
        from_file(file(tmp_path, text))


def test_many_problems_are_not_all_listed(tmp_path: Path) -> None:
    models = {f"m{number}": {} for number in range(30)}
    with pytest.raises(ValueError, match=r"and 20 more") as caught:
        prices(tmp_path, **models)
    assert len(str(caught.value)) < 2000


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, "~nobody-of-this-name/x", "a\0b"):
        with pytest.raises(ValueError, match="can be read") as caught:
            from_file(str(path))
        assert str(path) not in str(caught.value)
    with pytest.raises(ValueError, match="bytes at most"):
        from_file(file(tmp_path, " " * 2**21))


def test_the_example_is_one() -> None:
    found = from_file(str(ROOT / "deploy" / "prices.example.json"))
    assert found.find("example-large-2026-05-20") is not None
