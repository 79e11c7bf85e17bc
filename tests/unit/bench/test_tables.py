"""Tables: a line per contender, failures named, targets beside the figures."""

from bench.result import Round
from bench.tables import markdown, terminal
from tests.support.bench_results import buffered, result


def test_markdown() -> None:
    text = markdown(result(buffered("floor", 1, 200), buffered("ours", 1, 300)))
    assert text.startswith("### Buffered chats, 50 connections\n\n| contender | requests/s |")
    assert "| openai-proxy, everything on | 3,333 | 300 | – | – | 20 |" in text
    assert "| CPU per request | 1.60 × floor | 1.50 × floor | met |" in text
    assert text.endswith("Left out, not installed: portkey.")


def test_every_line_of_a_markdown_table_has_as_many_cells() -> None:
    text = markdown(result(buffered("floor", 1, 200), buffered("ours", 1, 300)))
    for table in text.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_contender_that_failed_says_why() -> None:
    failed = Round("buffered", "litellm", 1, problem="LoadFailed: no answer\nsecond line")
    text = terminal(result(buffered("floor", 1, 200), failed))
    assert "LiteLLM proxy failed 1 round(s): LoadFailed: no answer" in text
    assert "second line" not in text


def test_a_trial_is_called_a_trial() -> None:
    rounds = [buffered("ours", 1, 300)]
    assert "no result" in markdown(result(*rounds, quick="yes"))
    assert "no result" not in markdown(result(*rounds))
