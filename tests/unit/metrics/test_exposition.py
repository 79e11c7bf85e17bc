"""The text formats, read back by the library's own parsers."""

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from proxy import __version__
from proxy.metrics.exposition import render
from proxy.metrics.families import CATALOGUE
from proxy.metrics.samples import Samples

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
KEY = ("chat", "GET", "200", "completed")


def page_samples() -> Samples:
    made = Samples()
    made.count("proxy_requests_total", KEY, 7)
    made.set("proxy_requests_in_flight", 3)
    for seconds in (0.001, 0.2, 700.0):
        made.observe("proxy_request_duration_seconds", seconds, ("chat",))
    made.count("proxy_tokens_total", ("prompt", 'quo"te\\', "new\nline"), 5)
    return made


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("", "text/plain; version=0.0.4", parse_plain),
        ("*/*", "text/plain; version=0.0.4", parse_plain),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0", parse_openmetrics),
        (
            f"{OPENMETRICS};q=0.9,text/plain;q=0.1",
            "application/openmetrics-text",
            parse_openmetrics,
        ),
        # An invalid header still gets a page.
        (
            "application/openmetrics-text; version=abc",
            "application/openmetrics-text; version=1.0.0",
            parse_openmetrics,
        ),
        ("text/plain; version=x.y; escaping=evil", "text/plain", parse_plain),
        ("\x00;;,=,", "text/plain", parse_plain),
    ],
)
def test_the_page_is_parsed_by_the_library(accept: str, content_type: str, parse: object) -> None:
    page, found_type = render(page_samples(), accept)
    assert found_type.startswith(content_type)
    families = {family.name: family for family in parse(page.decode())}  # type: ignore[operator]
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["proxy_requests_total", *sorted(KEY)] == 7
    assert samples["proxy_requests_in_flight",] == 3
    assert samples["proxy_tokens_total", "new\nline", "prompt", 'quo"te\\'] == 5
    name = "proxy_request_duration_seconds"
    assert samples[f"{name}_count", "chat"] == 3
    assert samples[f"{name}_sum", "chat"] == pytest.approx(700.201)
    assert samples[f"{name}_bucket", "0.005", "chat"] == 1
    assert samples[f"{name}_bucket", "0.25", "chat"] == 2
    assert samples[f"{name}_bucket", "600.0", "chat"] == 2
    assert samples[f"{name}_bucket", "+Inf", "chat"] == 3
    (build,) = [sample for sample in samples if sample[0] == "proxy_build_info"]
    assert __version__ in build


def test_every_family_is_on_an_empty_page() -> None:
    page = render(Samples(), "")[0].decode()
    for name, family in CATALOGUE.items():
        assert f"# TYPE {name} {family.kind}\n" in page
