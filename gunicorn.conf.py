"""gunicorn's configuration: `gunicorn -c gunicorn.conf.py` serves.

All of it is in `proxy/server/gunicorn_config.py`.
"""

from gevent import monkey

monkey.patch_all()  # before anything imports ssl, and before the fork

import sys
from pathlib import Path

if not sys.platform.startswith("linux"):
    print(
        "The server needs Linux (pidfds, locks of open files); elsewhere run it in a container.",
        file=sys.stderr,
    )
    sys.exit(2)

sys.path.insert(0, str(Path(__file__).resolve().parent))

from proxy.server.gunicorn_config import configuration

globals().update(configuration())
