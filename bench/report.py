"""The newest results into `docs/performance.md`: `python -m bench.report [RESULT.json ...]`.

For each scenario the newest result that has it. Only the block between the markers is written; the
prose around it is by hand. A quick run is a trial and gets into the docs only when it is named.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.picture import picture
from bench.processes import ROOT
from bench.result import Result, Round, newest
from bench.tables import markdown

PAGE: Final = ROOT / "docs" / "performance.md"
PICTURE: Final = ROOT / "docs" / "performance.svg"
RESULTS: Final = ROOT / "bench" / "results"
BEGIN: Final = "<!-- begin: written by `python -m bench.report` -->"
END: Final = "<!-- end -->"


def main(arguments: Sequence[str]) -> int:
    named = [(path, Result.read(path)) for path in map(Path, arguments)]
    found = named or newest(RESULTS)
    if not found:
        sys.stderr.write(f"No result in {RESULTS}: run `make bench` first.\n")
        return 2
    PAGE.write_text(replaced(PAGE.read_text(), blocks(found)))
    PICTURE.write_text(picture(together([result for _, result in found])))
    sources = ", ".join(path.name for path, _ in found)
    sys.stdout.write(f"{PAGE} and {PICTURE.name}: from {sources}\n")
    return 0


def blocks(found: Sequence[tuple[Path, Result]]) -> str:
    """What stands between the markers: the picture, then machine and tables of each result."""
    parts = ["![CPU and latency of each contender](performance.svg)"]
    return "\n\n".join([*parts, *(block(result, path.name) for path, result in found)])


def together(results: Sequence[Result]) -> Result:
    """All scenarios as one result for the picture, each from the first that has it.

    A result has some scenarios only: the first of them may have none that is drawn.
    """
    rounds: list[Round] = []
    seen: set[str] = set()
    for result in results:
        rounds += (each for each in result.rounds if each.scenario not in seen)
        seen.update(result.scenarios())
    return replace(results[0], rounds=rounds)


def block(result: Result, source: str) -> str:
    """Machine and tables of one result."""
    machine = result.machine
    others = "".join(
        f", {name} {machine[name]}" for name in ("litellm", "portkey") if name in machine
    )
    where = (
        f"Measured {result.started[:10]} on {machine['cpu']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}, {_os(result)}Python {machine['python']}, "
        f"gunicorn {machine['gunicorn']}, gevent {machine['gevent']}, "
        f"nginx {machine['nginx']}{others}; commit `{machine['commit'][:10]}`"
        f"{_changed(result)}; medians of {result.options['rounds']} round(s){_stolen(result)}; "
        f"every round is in `bench/results/{source}`."
    )
    return f"{where}\n\n{markdown(result)}"


def _changed(result: Result) -> str:
    return " with uncommitted changes" if result.machine["uncommitted_changes"] == "yes" else ""


def _os(result: Result) -> str:
    name = result.machine.get("os", "")
    return f"{name}, " if name else ""


def _stolen(result: Result) -> str:
    share = result.stolen()
    return "" if share is None else f", in which the host took up to {share:.1%} of the cores"


def replaced(page: str, new: str) -> str:
    """The page with ``new`` between its markers.

    Raises:
        ValueError: It has not each marker once, in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"the page needs {BEGIN} and {END}, once each, in this order")
    return f"{before}{BEGIN}\n\n{new}\n\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
