"""The command line of the race: what to run, on which cores, and what is missing for it."""

import argparse
import os
import resource
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.contenders import CONTENDERS
from bench.contenders.base import Contender
from bench.machine import describe
from bench.picture import picture
from bench.processes import ROOT
from bench.race import Plan, race
from bench.result import Result
from bench.scenarios import SCENARIOS
from bench.tables import markdown, terminal

RESULTS: Final = ROOT / "bench" / "results"
_NEEDED: Final = {"wrk": "wrk", "nginx": "nginx-light"}  # program → Debian's package


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, 1 (ours failed a round; what others fail is in the tables), 2 (cannot run)."""
    options = _parser().parse_args(arguments)
    if problem := _cannot_run():
        sys.stderr.write(problem + "\n")
        return 2
    taking_part, left_out = _taking_part(options.contenders)
    contender_core, load_core = options.cores
    # The load is this process and what it starts.
    os.sched_setaffinity(0, {load_core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = Plan(
        scenarios=[SCENARIOS[name] for name in options.scenarios],
        contenders=taking_part,
        rounds=options.rounds or (1 if options.quick else 5),
        quick=options.quick,
        contender_cores={contender_core},
        load_cores={load_core},
    )
    started = datetime.now(UTC)
    result = Result(
        started=started.isoformat(timespec="seconds"),
        machine=describe(ROOT) | {c.name: v for c in taking_part if (v := c.version())},
        options={
            "rounds": str(plan.rounds),
            "quick": "yes" if plan.quick else "no",
            "contender_core": str(contender_core),
            "load_core": str(load_core),
        },
        left_out=left_out,
    )
    try:
        race(plan, result)
    finally:
        if result.rounds:
            # A trial is marked in its name: it is neither committed nor shown in the docs.
            name = f"{started:%Y%m%d-%H%M%S}{'-quick' if plan.quick else ''}"
            _write(result, Path(options.results), name)
    return int(any(each.problem for each in result.rounds if each.contender == "ours"))


def _write(result: Result, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    result.write(folder / f"{name}.json")
    (folder / f"{name}.md").write_text(markdown(result) + "\n")
    (folder / f"{name}.svg").write_text(picture(result))
    sys.stdout.write(f"{terminal(result)}\n\nWritten: {folder / name}.json, .md, .svg\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Proxies side by side on one machine."
    )
    parser.add_argument(
        "--scenarios",
        type=_names_of(SCENARIOS),
        default=list(SCENARIOS),
        help=f"comma list of {', '.join(SCENARIOS)} (all)",
    )
    parser.add_argument(
        "--contenders",
        type=_names_of(CONTENDERS),
        default=list(CONTENDERS),
        help=f"comma list of {', '.join(CONTENDERS)} (all that are installed)",
    )
    parser.add_argument("--rounds", type=int, default=0, help="5; with --quick 1")
    parser.add_argument("--quick", action="store_true", help="short runs: a trial, not a result")
    parser.add_argument(
        "--cores",
        type=_two_cores,
        default=_default_cores(),
        help="CONTENDER,LOAD: the core of the contender and that of load and upstream (0,1)",
    )
    parser.add_argument("--results", default=str(RESULTS), help="folder for the result")
    return parser


def _names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if wrong := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: not among {', '.join(known)}")
        return names

    return parse


def _two_cores(text: str) -> tuple[int, int]:
    contender, _, load = text.partition(",")
    return int(contender), int(load)


def _default_cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def _cannot_run() -> str:
    if not sys.platform.startswith("linux"):
        return "The race needs Linux: it pins processes to cores, and reads /proc."
    packages = [package for program, package in _NEEDED.items() if not shutil.which(program)]
    if packages:
        return f"The race needs {', '.join(packages)}. On Debian: apt-get install " + " ".join(
            packages
        )
    if len(os.sched_getaffinity(0)) < 2:
        return "The race needs two cores: one for the contender, one for load and upstream."
    return ""


def _taking_part(names: Sequence[str]) -> tuple[list[Contender], dict[str, str]]:
    missing = {name: CONTENDERS[name].missing() for name in names}
    left_out = {name: why for name, why in missing.items() if why}
    for name, why in left_out.items():
        sys.stderr.write(f"{name} is left out: {why}\n")
    return [CONTENDERS[name] for name in names if name not in left_out], left_out
