"""The picture: well-formed, a dot per contender, the target where it belongs."""

import xml.etree.ElementTree as ET

from bench.picture import WIDTH, picture
from bench.result import Result
from tests.support.bench_results import buffered, result

SVG = "{http://www.w3.org/2000/svg}"


def drawn(of: Result) -> ET.Element:
    return ET.fromstring(picture(of))


def test_a_dot_per_contender_in_order_and_within_the_picture() -> None:
    root = drawn(
        result(buffered("floor", 1, 200), buffered("nginx", 1, 10), buffered("ours", 1, 300))
    )
    at = [float(dot.get("cx", "")) for dot in root.iter(f"{SVG}circle")]
    assert at == sorted(at)
    assert len(at) == 3
    assert all(0 < x < WIDTH for x in at)
    names = [text.text for text in root.iter(f"{SVG}text") if text.get("x") == "0"]
    assert names[1:] == ["nginx", "floor", "ours"]


def test_the_target_of_a_ratio_is_drawn_in_the_unit_of_the_panel() -> None:
    exactly = buffered("ours", 1, 200 * 1.6)
    root = drawn(result(buffered("floor", 1, 200), exactly))
    (line,) = (line for line in root.iter(f"{SVG}line") if line.get("class") == "target")
    (ours,) = (dot for dot in root.iter(f"{SVG}circle") if dot.get("class") == "ours")
    assert line.get("x1") == ours.get("cx")


def test_nothing_measured_is_an_empty_picture() -> None:
    assert not list(drawn(result()).iter(f"{SVG}circle"))


def test_a_figure_below_zero_has_no_dot() -> None:
    """Added latency can be: noise."""
    assert not list(drawn(result(buffered("ours", 1, -1))).iter(f"{SVG}circle"))
