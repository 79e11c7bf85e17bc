"""The race itself: rounds in turns (A B C A B C …), so that a slow minute hits everybody."""

import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.accounting import CoreTime
from bench.contenders.base import Contender
from bench.load.wrk import LoadFailed
from bench.processes import NotStarted
from bench.result import Result, Round
from bench.scenarios.base import Bench, Scenario


@dataclass(frozen=True)
class Plan:
    """What is raced, and on which cores."""

    scenarios: list[Scenario]
    contenders: list[Contender]
    rounds: int
    quick: bool
    contender_cores: set[int]
    load_cores: set[int]


def race(plan: Plan, result: Result) -> None:
    """Fills ``result`` round by round; says on stderr what it is doing."""
    for scenario in plan.scenarios:
        able = [contender for contender in plan.contenders if scenario.takes(contender)]
        for number in range(1, plan.rounds + 1):
            for contender in able:
                _say(f"{scenario.name} {number}/{plan.rounds}: {contender.name} … ")
                measured = _measure(plan, scenario, contender, number)
                result.rounds.append(measured)
                _say((measured.problem or _brief(measured)) + "\n")


def _measure(plan: Plan, scenario: Scenario, contender: Contender, number: int) -> Round:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(
            Path(folder), contender, plan.contender_cores, plan.load_cores, quick=plan.quick
        )
        before = CoreTime.now()
        try:
            figures, problem = scenario.run(bench), ""
        except (NotStarted, LoadFailed, OSError, subprocess.SubprocessError) as error:
            figures, problem = {}, f"{type(error).__name__}: {error}"
        stolen = round(CoreTime.now().stolen_since(before), 4)
    # A percentile of nothing: there is no such figure, and no such number in JSON.
    there = {name: value for name, value in figures.items() if not math.isnan(value)}
    return Round(scenario.name, contender.name, number, there, problem, stolen)


def _brief(measured: Round) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in measured.figures.items())


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
