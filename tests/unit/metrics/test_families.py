"""The catalogue: names as Prometheus wants them, closed labels, and every family in the docs."""

import re

import pytest

from proxy.metrics.families import CATALOGUE, Family
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "metrics.md").read_text()


@pytest.mark.parametrize("family", CATALOGUE.values(), ids=lambda family: family.name)
def test_a_family(family: Family) -> None:
    assert re.fullmatch(r"proxy_[a-z_]+", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert bool(family.buckets) == (family.kind == "histogram")
    assert list(family.buckets) == sorted(set(family.buckets))
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", label) for label in family.labels)
    assert family.help.endswith(".")


@pytest.mark.parametrize("family", CATALOGUE.values(), ids=lambda family: family.name)
def test_a_family_is_documented_with_its_labels(family: Family) -> None:
    (row,) = re.findall(rf"^\| `{family.name}` \| ([a-z]+) \|([^|]*)\|", PAGE, re.MULTILINE)
    assert row[0] == family.kind
    assert re.findall("`([a-z_]+)`", row[1]) == list(family.labels)


def test_the_docs_have_no_other_families() -> None:
    names = set(
        re.findall(r"^\| `(proxy_[a-z_]+)` \| (?:counter|gauge|histogram) ", PAGE, re.MULTILINE)
    )
    assert names == {*CATALOGUE, "proxy_build_info"}
