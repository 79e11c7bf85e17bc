"""The change bus that a worker gets."""

import subprocess
import sys


def test_redis_is_loaded_by_whom_it_concerns() -> None:
    script = (
        "import sys; from types import SimpleNamespace as N; "
        "from proxy.wiring.accounts import change_bus; "
        "change_bus(N(redis_url=''), None).publish(['a']); "
        "assert 'redis' not in sys.modules; "
        "change_bus(N(redis_url='redis://h'), None).close(); assert 'redis' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
