"""proxy/tools/loadtest/report.py: well-formed, inside the picture, and the curves say what the
samples say."""

import re
import xml.etree.ElementTree as ET

import pytest

from proxy.tools.loadtest.report import svg

SVG = "{http://www.w3.org/2000/svg}"


def curves(picture: str) -> list[list[tuple[float, float]]]:
    found = ET.fromstring(picture).findall(f"{SVG}polyline")
    return [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]  # type: ignore[misc]
        for line in found
    ]


def test_two_curves_rise_from_none_to_all() -> None:
    direct = [number / 10_000 for number in range(1, 2001)]
    proxied = [value + 0.01 for value in direct]
    picture = svg("GET /v1/models", {"direct": direct, "proxied": proxied})
    left, right = curves(picture)
    for curve in (left, right):
        assert curve == sorted(curve, key=lambda point: (point[0], -point[1]))
        assert (curve[0][1], curve[-1][1]) == (368.0, 64.0)  # 0 % and 100 %
        assert 64 <= curve[0][0] <= curve[-1][0] <= 736
        assert len(curve) < 1100
    assert right[0][0] > left[0][0]
    assert "direct: p50 100.000ms, p90 180.000ms, p99 198.000ms" in picture


def test_the_slowest_is_never_thinned_out() -> None:
    picture = svg("x", {"it": [0.001] * 5000 + [9.0]})
    assert curves(picture)[0][-1][0] > curves(picture)[0][-2][0] + 100
    assert ">10 s<" in picture


@pytest.mark.parametrize("values", [[0.0], [0.005], [1e-6, 300.0]])
def test_odd_values(values: list[float]) -> None:
    (curve,) = curves(svg("x", {"it": values}))
    assert all(64 <= x <= 736 and 64 <= y <= 368 for x, y in curve)


def test_nothing_to_draw_is_an_empty_picture() -> None:
    assert curves(svg("x", {"it": [], "other": []})) == []


def test_names_are_escaped() -> None:
    picture = svg("<script>&", {"a<b": [1.0]})
    assert not re.search("<script>|a<b", picture)
    ET.fromstring(picture)
