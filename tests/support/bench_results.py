"""A small result to make reports of."""

from bench.result import Result, Round

MACHINE = {
    "cpu": "A processor",
    "cores": "2",
    "kernel": "6.1",
    "python": "3.11.7",
    "gunicorn": "27.0.1",
    "gevent": "26.1",
    "nginx": "1.22.1",
    "commit": "0123456789abcdef",
    "uncommitted_changes": "no",
}


def buffered(
    contender: str, number: int, cpu: float, longest: float = 20.0, lost: float = 0.0
) -> Round:
    return Round(
        "buffered",
        contender,
        number,
        {
            "requests_per_s": 1e6 / cpu,
            "cpu_us_per_request": cpu,
            "longest_ms": longest,
            "events_lost": lost,
        },
    )


def result(*rounds: Round, quick: str = "no") -> Result:
    return Result(
        started="2026-11-21T12:00:00+00:00",
        machine=dict(MACHINE),
        options={"rounds": "3", "quick": quick},
        left_out={"portkey": "npm install …"},
        rounds=list(rounds),
    )
