"""A result as tables, for the terminal and as Markdown."""

from collections.abc import Callable, Sequence

from bench.columns import shown
from bench.contenders import CONTENDERS
from bench.result import Result
from bench.scenarios import SCENARIOS
from bench.targets import TARGETS, Verdict

Rows = Sequence[Sequence[str]]  # the first one is the heading


def verdicts(result: Result, scenario: str) -> list[Verdict]:
    measured = {name: result.medians(scenario, name) for name in result.contenders(scenario)}
    return [target.verdict(measured) for target in TARGETS if target.scenario == scenario]


def figures(result: Result, scenario: str) -> Rows:
    """A line per contender; one without any figures says why."""
    columns = SCENARIOS[scenario].columns
    rows = [["contender", *(column.heading for column in columns)]]
    for name in result.contenders(scenario):
        medians = result.medians(scenario, name)
        values = [shown(medians[c.figure]) if c.figure in medians else "–" for c in columns]
        rows.append([CONTENDERS[name].title, *values])
    return rows


def targets(result: Result, scenario: str) -> Rows:
    rows = [["target of ours", "at most", "measured", ""]]
    rows += [[v.target.text, v.limit, v.measured, v.word] for v in verdicts(result, scenario)]
    return rows


def failures(result: Result, scenario: str) -> list[str]:
    """One line per contender that failed rounds."""
    lines = []
    for name in result.contenders(scenario):
        if problems := result.problems(scenario, name):
            first = problems[0].splitlines()[0][:200]
            lines.append(f"{CONTENDERS[name].title} failed {len(problems)} round(s): {first}")
    return lines


def aligned(rows: Rows) -> str:
    """For the terminal: the first column to the left, the others to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def marked_down(rows: Rows) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---|" + "--:|" * (len(rows[0]) - 1))
    return "\n".join(lines)


def terminal(result: Result) -> str:
    return _sections(result, "{}", aligned)


def markdown(result: Result) -> str:
    return _sections(result, "### {}", marked_down)


def _sections(result: Result, heading: str, table: Callable[[Rows], str]) -> str:
    parts = []
    if result.options["quick"] == "yes":
        parts.append("A short trial run, smaller than the titles say: these figures are no result.")
    for scenario in result.scenarios():
        parts += [heading.format(SCENARIOS[scenario].title), table(figures(result, scenario))]
        parts += failures(result, scenario)
        parts.append(table(targets(result, scenario)))
    if result.left_out:
        parts.append("Left out, not installed: " + ", ".join(result.left_out) + ".")
    return "\n\n".join(parts)
