from __future__ import annotations

import pytest

from proxy.usage.counts import Usage
from proxy.usage.reading import source_of

WHOLE, INPUT, SUM = Usage(prompt_tokens=1, completion_tokens=0), Usage(prompt_tokens=1), Usage()


@pytest.mark.parametrize(
    ("usage", "final", "generated", "source"),
    [
        (WHOLE, True, True, "reported"),
        (WHOLE, False, False, "partial"),
        (INPUT, True, True, "partial"),
        (INPUT, True, False, "reported"),
        (SUM._replace(total_tokens=5), True, True, "partial"),
        (SUM._replace(total_tokens=5), True, False, "reported"),
    ],
)
def test_source_of(usage: Usage, final: bool, generated: bool, source: str) -> None:
    assert source_of(usage, final=final, generated=generated) == source
