"""A worker process with one flight, for tests that kill it.

`python -m tests.support.flight_worker DIRECTORY`: claims the key, begins a flight and says
`claimed`. Then each line on its standard input is the head (`head`), a chunk, or the end (`end`),
and each is confirmed with a line.
"""

import sys
from pathlib import Path

from gevent import monkey

monkey.patch_all()

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402
from gevent.fileobject import FileObject  # noqa: E402

from proxy.cache.fetched import Fetched  # noqa: E402
from proxy.cache.flight import Abandoned  # noqa: E402
from proxy.cache.flight_claims import NodeClaims  # noqa: E402
from proxy.cache.flights import Flights  # noqa: E402
from proxy.cache.key import CacheKey  # noqa: E402
from tests.support.scripted_source import END, ScriptedSource, fetched  # noqa: E402

KEY = CacheKey("project-1", b"k" * 32)


def main(directory: str) -> None:
    source, go = ScriptedSource(), Event()

    def fetch() -> Fetched:
        go.wait()
        return fetched(source)

    flights = Flights(entry_bytes=1 << 20, claims=[NodeClaims(Path(directory))])
    reader = flights.join_or_begin(KEY, fetch, on_abandoned=lambda _: Abandoned.DRAIN)
    say("claimed" if reader.owns else "follows")
    gevent.spawn(read_all, reader)
    for line in FileObject(sys.stdin.buffer, "rb"):
        word = line.strip()
        if word == b"head":
            go.set()
        else:
            source.put(END if word == b"end" else word)
        gevent.sleep(0.01)
        say("done")
    flights.stop()


def read_all(reader: object) -> None:
    while reader.read():  # type: ignore[attr-defined]
        pass


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
