"""docs/guides/add-a-provider.md: its example is a module, and does what the page says."""

import re
from dataclasses import replace
from typing import Any

from proxy.providers.base import Provider
from proxy.providers.body import scan
from tests.support.paths import ROOT


def test_the_worked_example_runs() -> None:
    page = (ROOT / "docs/guides/add-a-provider.md").read_text()
    module, example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {"replace": replace, "scan": scan}
    exec(compile(module, "acme.py", "exec"), names)
    provider: Provider = names["AcmeProvider"]()
    assert provider.prepare
    exec(compile(example, "example.py", "exec"), names)
