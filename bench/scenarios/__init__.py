"""The scenarios by name, in the order in which they run."""

from typing import Final

from bench.scenarios.base import Scenario
from bench.scenarios.buffered import Buffered
from bench.scenarios.cached import Cached
from bench.scenarios.events import Events
from bench.scenarios.greedy import Greedy
from bench.scenarios.latency import Latency
from bench.scenarios.many import Many
from bench.scenarios.translated import Translated
from bench.scenarios.workers import Workers

_ALL: Final[tuple[Scenario, ...]] = (
    Buffered(),
    Latency(),
    Events(),
    Translated(),
    Cached(),
    Many(),
    Greedy(),
    Workers(),
)
SCENARIOS: Final = {scenario.name: scenario for scenario in _ALL}
