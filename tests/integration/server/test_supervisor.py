"""The shipper as gunicorn's master runs it (``proxy/server/supervisor.py``): started, watched,
ended."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.events.spool.retention import register_sinks
from tests.support.event_receiver import Receiver
from tests.support.server import ProxyServer
from tests.support.spool_factories import abandoned, append, write
from tests.support.wait import wait_until

#: Starts servers.


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def shipping(tmp_path: Path, receiver: Receiver) -> Iterator[Callable[..., ProxyServer]]:
    """Makes a server whose shipper delivers to ``receiver``; it does not outlive the test."""
    made: list[ProxyServer] = []

    def make(**settings: str) -> ProxyServer:
        defaults = {"WEB_CONCURRENCY": "1", "EVENT_SHIPPER": "on", "LOGGING_URL": receiver.url}
        made.append(ProxyServer(tmp_path, "http://127.0.0.1:9", **defaults | settings))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def spool(server: ProxyServer) -> Path:
    root = server.folder / "data" / "spool"
    register_sinks(root, ["http"])
    return root


def received(receiver: Receiver) -> list[int]:
    return sorted(int(event["event_id"][1:]) for event in receiver.events)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def sockets_of(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(entry))
    return {name for name in found if name.startswith("socket:")}


def test_started_with_the_server_and_ended_after_it(
    shipping: Callable[..., ProxyServer], receiver: Receiver
) -> None:
    server = shipping()
    abandoned(spool(server), range(100))  # of a run before
    server.start()
    wait_until(lambda: received(receiver) == list(range(100)))
    (pid,) = server.shipper_pids()
    assert os.getpgid(pid) == pid  # Ctrl-C in a terminal is not for it
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert command.split(b"\0")[2:5] == [b"events", b"ship", b"--attached"]
    # Neither the listening sockets nor any other of the server's; it may have some of its own.
    assert server.process is not None
    assert sockets_of(server.process.pid)
    assert not sockets_of(pid) & sockets_of(server.process.pid)
    os.kill(pid, signal.SIGUSR2)  # meant for workers
    abandoned(spool(server), range(100, 200))
    wait_until(lambda: received(receiver) == list(range(200)))
    assert server.shipper_pids() == [pid]
    assert "EVENT_SHIPPER=off" not in server.log_text()
    assert server.stop() == 0
    assert gone(pid)
    assert "the shipper" not in server.log_text()


def test_what_comes_in_last_is_delivered_before_the_server_is_gone(
    shipping: Callable[..., ProxyServer], receiver: Receiver
) -> None:
    server = shipping().start()
    (pid,) = server.shipper_pids()
    writer = write(spool(server), range(10))
    wait_until(lambda: received(receiver) == list(range(10)))
    # Signals that reach all processes of a service come long before the last event.
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    server.terminate()
    append(writer, range(10, 3000))
    assert server.wait() == 0
    assert received(receiver) == list(range(3000))
    assert gone(pid)


def test_killed_it_comes_again_and_loses_nothing(
    shipping: Callable[..., ProxyServer], receiver: Receiver
) -> None:
    server = shipping().start()
    writer = write(spool(server), range(100))
    wait_until(lambda: len(receiver.events) > 0)
    (pid,) = server.shipper_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.shipper_pids() not in ([], [pid]))
    append(writer, range(100, 200))
    wait_until(lambda: set(received(receiver)) == set(range(200)))
    assert "the shipper has ended" in server.log_text()
    assert server.stop() == 0


def test_a_server_that_was_killed_leaves_no_shipper(
    shipping: Callable[..., ProxyServer], receiver: Receiver
) -> None:
    server = shipping().start()
    (pid,) = server.shipper_pids()
    workers = server.worker_pids()
    write(spool(server), range(100))
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    wait_until(lambda: all(gone(each) for each in [pid, *workers]))
    assert received(receiver) == list(range(100))


def test_a_reload_brings_new_settings_and_no_second_shipper(
    shipping: Callable[..., ProxyServer], receiver: Receiver
) -> None:
    other = Receiver()
    server = shipping(LOGGING_URL="")
    server.migrate()
    dotenv = server.folder / ".env"
    dotenv.write_text(f"LOGGING_URL={receiver.url}\n")
    server.spawn()
    server.wait_ready()
    root = spool(server)
    writer = write(root, range(10))
    wait_until(lambda: received(receiver) == list(range(10)))
    (first,) = server.shipper_pids()
    assert server.process is not None

    server.process.send_signal(signal.SIGHUP)  # nothing has changed
    wait_until(lambda: "Handling signal: hup" in server.log_text())
    server.wait_ready()
    assert server.shipper_pids() == [first]

    dotenv.write_text(f"LOGGING_URL={other.url}\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: gone(first) and len(server.shipper_pids()) == 1)
    append(writer, range(10, 20))
    wait_until(lambda: received(other) == list(range(10, 20)))

    (second,) = server.shipper_pids()
    dotenv.write_text("LOGGING_URL=nonsense\n")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "settings not reloaded" in server.log_text())
    append(writer, range(20, 30))
    wait_until(lambda: received(other) == list(range(10, 30)))
    assert server.shipper_pids() == [second]
    assert server.stop() == 0
    assert gone(second)
    other.close()


def test_switched_off_another_process_ships(
    shipping: Callable[..., ProxyServer], receiver: Receiver
) -> None:
    server = shipping(EVENT_SHIPPER="off").start()
    assert server.shipper_pids() == []
    assert "EVENT_SHIPPER=off: run `manage.py events ship`" in server.log_text()
    abandoned(spool(server), range(10))
    assert server.stop() == 0
    assert receiver.events == []


def test_a_shipper_that_cannot_start_is_tried_with_pauses_and_blocks_no_request(
    shipping: Callable[..., ProxyServer],
) -> None:
    server = shipping()
    # The folder of the spool cannot be made.
    (server.folder / "data").mkdir(parents=True)
    (server.folder / "data" / "spool").write_text("in the way")
    server.start()
    wait_until(lambda: server.log_text().count("the shipper has ended") >= 2)
    pauses = [
        float(json.loads(line)["message"].split()[-2])
        for line in server.log_text().splitlines()
        if "the shipper has ended" in line
    ]
    assert 0.5 <= pauses[0] <= 1 <= pauses[1] <= 2
    assert server.stop() == 0
