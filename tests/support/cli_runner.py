"""What the tests of the command line name: the server, its token, the type of the `run` fixture."""

from collections.abc import Callable

from click.testing import Result

BASE = "http://127.0.0.1:8080"
TOKEN = "management-token-1"

#: `run("token", "list", input="…")`, as from the shell.
Run = Callable[..., Result]
