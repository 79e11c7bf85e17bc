"""``manage.py serve``, ``stop`` and ``health``.

``serve`` becomes gunicorn (exec), so that a supervisor's signals reach gunicorn itself.
``--daemon`` does not use gunicorn's own daemon mode, which discards stdout and stderr: a daemon
that fails to start must be able to report why.
"""

import os
import signal
import sys
import time
from pathlib import Path

import click

from proxy.cli import output, server
from proxy.cli.client import Api, base_url, base_url_option, default_base_url
from proxy.cli.local_settings import load_settings, lookup

_PID_NAME = "proxy.pid"
_pid_file_option = click.option(
    "--pid-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="[default: proxy.pid in DATA_DIR]",
)


@click.command()
@click.option("--daemon", is_flag=True, help="Go to the background once the server responds.")
@_pid_file_option
@click.option("--welcome", is_flag=True, hidden=True, help="Print a curl to paste when ready.")
def serve(daemon: bool, pid_file: Path | None, welcome: bool) -> None:
    """Start the proxy: gunicorn with the project's gunicorn.conf.py."""
    if daemon:
        _serve_in_background(pid_file)
    elif welcome:
        # Imported here: exec would discard the modules, and must not wait for them.
        from proxy.cli.first_run import serve_and_greet

        sys.exit(serve_and_greet())
    else:
        arguments = [] if pid_file is None else ["--pid", str(_not_running(pid_file))]
        command = server.command(*arguments)
        sys.stdout.flush()
        os.execve(command[0], command, server.environment(os.environ))  # noqa: S606


@click.command()
@_pid_file_option
@click.option("--timeout", type=click.FloatRange(min=0), help="[default: GRACEFUL_TIMEOUT + 10]")
def stop(pid_file: Path | None, timeout: float | None) -> None:
    """Stop a proxy that has a pid file: SIGTERM, then wait until it is gone."""
    pid_file = pid_file or Path(lookup("DATA_DIR", "data")).expanduser() / _PID_NAME
    pid = server.read_pid(pid_file)
    if pid is None:
        raise click.ClickException(
            f"{pid_file}: no process id there; is the proxy running?"
            " (only servers started with `serve --daemon` have one)"
        )
    if not server.is_ours(pid):
        pid_file.unlink(missing_ok=True)
        raise click.ClickException(
            f"process {pid} is not this proxy (any more): removed the stale {pid_file}"
        )
    if timeout is None:
        graceful = lookup("GRACEFUL_TIMEOUT", "60")
        timeout = float(graceful if graceful.isdecimal() else 60) + 10
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise click.ClickException(f"process {pid} belongs to another user") from error
    deadline = time.monotonic() + timeout
    while server.is_ours(pid):
        if time.monotonic() > deadline:
            raise click.ClickException(f"process {pid} is still running after {timeout:g} s")
        time.sleep(0.05)
    pid_file.unlink(missing_ok=True)
    click.echo(f"Stopped process {pid}.")


@click.command()
@base_url_option
@output.json_option
def health(base_url_given: str | None, json_wanted: bool) -> None:
    """Query /health and /ready. Exit code 0 when the proxy is up and accepts requests."""
    where = base_url(base_url_given) if base_url_given else default_base_url()
    with Api(where) as api:
        health_status, health_body = api.status_of("/health")
        ready_status, ready_body = api.status_of("/ready")
    well = health_status == ready_status == 200
    if json_wanted:
        output.as_json({"ok": well, "health": health_body, "ready": ready_body})
    else:
        output.record({"/health": f"{health_status} {output.compact(health_body)}"})
        output.record({"/ready ": f"{ready_status} {output.compact(ready_body)}"})
    sys.exit(0 if well else 1)


def _serve_in_background(pid_file: Path | None) -> None:
    settings = load_settings()
    settings.make_data_dir()
    pid_file = _not_running(pid_file or settings.data_dir / _PID_NAME)
    server.refuse_busy_port(settings.server.host, settings.server.port)
    log_path = settings.data_dir / "proxy.log"
    with os.fdopen(os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
        begin = log.tell()
        process = server.start(
            os.environ, "--pid", str(pid_file.absolute()), log=log, own_session=True
        )
    where = default_base_url()
    if not server.wait_until_serving(where, lambda: process.poll() is not None):
        if process.poll() is None:
            server.stop(process, timeout=5)
        with log_path.open("rb") as log:
            log.seek(begin)
            click.echo(log.read()[-20_000:].decode("utf-8", "replace"), err=True, nl=False)
        raise click.ClickException(f"the server did not start; its log is {log_path}")
    click.echo(f"Serving on {where} as process {process.pid}; log: {log_path}; pid: {pid_file}")


def _not_running(pid_file: Path) -> Path:
    """Returns ``pid_file``, cleared of a dead server's id. Raises if a live server owns it."""
    pid = server.read_pid(pid_file)
    if pid is not None and server.is_ours(pid):
        raise click.ClickException(f"already running as process {pid} ({pid_file})")
    pid_file.unlink(missing_ok=True)
    return pid_file
