"""The page: only the block between the markers is written, from the newest real result."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.picture import PANELS, picture
from bench.report import BEGIN, END, PAGE, PICTURE, RESULTS, block, blocks, replaced, together
from bench.result import Result, newest
from tests.support.bench_results import buffered, result


def test_only_what_is_between_the_markers_changes() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = replaced(page, "new")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replaced(once, "new") == once


@pytest.mark.parametrize(
    "page", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"]
)
def test_a_page_without_its_markers_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        replaced(page, "new")


def test_a_result_survives_writing_and_reading(tmp_path: Path) -> None:
    made = result(buffered("floor", 1, 200), buffered("ours", 2, 300))
    made.write(tmp_path / "one.json")
    assert Result.read(tmp_path / "one.json") == made


def test_trials_are_not_the_newest_result(tmp_path: Path) -> None:
    assert newest(tmp_path) == []
    for name in ("20260101-000000", "20260201-000000", "20260301-000000-quick"):
        result(buffered("floor", 1, 200)).write(tmp_path / f"{name}.json")
    ((found, _),) = newest(tmp_path)
    assert found.stem == "20260201-000000"


def test_a_scenario_is_from_the_newest_result_that_has_it(tmp_path: Path) -> None:
    other = replace(buffered("ours", 3, 100), scenario="events")
    result(buffered("ours", 1, 200), other).write(tmp_path / "20260101-000000.json")
    result(buffered("ours", 2, 300)).write(tmp_path / "20260201-000000.json")
    (older, first), (newer, second) = newest(tmp_path)
    assert (older.stem, first.scenarios()) == ("20260101-000000", ["events"])
    assert (newer.stem, second.scenarios()) == ("20260201-000000", ["buffered"])


def test_the_page_says_whose_system_it_was_and_what_the_host_took() -> None:
    made = result(
        *(replace(buffered("ours", n, 100), stolen=share) for n, share in ((1, 0.004), (2, 0.031)))
    )
    assert "host" not in block(result(buffered("ours", 1, 100)), "one.json")
    made.machine["os"] = "Debian GNU/Linux 13 (trixie)"
    text = block(made, "one.json")
    assert ", Debian GNU/Linux 13 (trixie), Python 3.11.7" in text
    assert "3 round(s), in which the host took up to 3.1% of the cores; every" in text


def test_the_page_is_that_of_the_newest_result() -> None:
    found = newest(RESULTS)
    if not found:
        assert "No result yet" in PAGE.read_text()
        return
    assert replaced(PAGE.read_text(), blocks(found)) == PAGE.read_text()
    assert PICTURE.read_text() == picture(together([result for _, result in found]))
    drawn = PICTURE.read_text()
    assert drawn.count("<circle") >= 2, "a picture of nothing"
    assert [drawn.count(panel.title) for panel in PANELS] == [1] * len(PANELS)


def test_the_picture_has_every_scenario_from_the_first_result_that_has_it() -> None:
    slow = replace(buffered("ours", 1, 100), scenario="streams")
    first, second = result(slow), result(buffered("ours", 1, 200), buffered("ours", 2, 300))
    third = result(buffered("floor", 1, 100))
    made = together([first, second, third])
    assert made.rounds == [*first.rounds, *second.rounds]
    assert "<circle" in picture(made)
