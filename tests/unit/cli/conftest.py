"""An empty directory, an environment without the proxy's settings, and a mocked management API."""

from tests.support.cli_fixtures import api, empty_directory, run

__all__ = ["api", "empty_directory", "run"]
