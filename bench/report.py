"""Tables."""

from bench.result import Result


def terminal(result: Result) -> str:
    return "\n".join(
        f"{s} {c} {result.medians(s, c)} {result.problems(s, c)}"
        for s in result.scenarios()
        for c in result.contenders(s)
    )
