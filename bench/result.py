"""A result of the race: what was measured, where, and what was left out."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from bench.figures import Figures, medians


@dataclass(frozen=True)
class Round:
    """One measurement; ``problem`` says why there are no figures.

    ``stolen``: share (0 … 1) of the cores' time that the host took meanwhile; None in results that
    were made before it was noted.
    """

    scenario: str
    contender: str
    number: int
    figures: Figures = field(default_factory=dict)
    problem: str = ""
    stolen: float | None = None


@dataclass
class Result:
    """``started`` is RFC 3339; ``left_out`` is contender → why."""

    started: str
    machine: dict[str, str]
    options: dict[str, str]
    left_out: dict[str, str]
    rounds: list[Round] = field(default_factory=list)

    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(each.scenario for each in self.rounds))

    def contenders(self, scenario: str) -> list[str]:
        return list(dict.fromkeys(r.contender for r in self.rounds if r.scenario == scenario))

    def medians(self, scenario: str, contender: str) -> Figures:
        """Over the rounds that came to figures; empty when none did."""
        return medians([each.figures for each in self._of(scenario, contender) if each.figures])

    def problems(self, scenario: str, contender: str) -> list[str]:
        return [each.problem for each in self._of(scenario, contender) if each.problem]

    def stolen(self) -> float | None:
        """The largest share that the host took in a round."""
        return max((each.stolen for each in self.rounds if each.stolen is not None), default=None)

    def only(self, scenarios: Sequence[str]) -> Self:
        """The same with the rounds of these scenarios."""
        return replace(self, rounds=[r for r in self.rounds if r.scenario in scenarios])

    def _of(self, scenario: str, contender: str) -> Iterable[Round]:
        return (r for r in self.rounds if (r.scenario, r.contender) == (scenario, contender))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        found = json.loads(path.read_text())
        rounds = [Round(**each) for each in found.pop("rounds")]
        return cls(**found, rounds=rounds)


def newest(folder: Path) -> list[tuple[Path, Result]]:
    """The newest figures of every scenario: results with what no later one has, oldest first.

    Names are times; trials are no results.
    """
    chosen: list[tuple[Path, Result]] = []
    seen: set[str] = set()
    paths = [path for path in folder.glob("*.json") if not path.stem.endswith("-quick")]
    for path in sorted(paths, reverse=True):
        result = Result.read(path)
        fresh = [name for name in result.scenarios() if name not in seen]
        if fresh:
            chosen.insert(0, (path, result.only(fresh)))
            seen.update(fresh)
    return chosen
