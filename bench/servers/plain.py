"""gunicorn's configuration for the floor and the naive version: its own gevent worker, no more."""

import os

from gevent import monkey

monkey.patch_all()

worker_class = "gevent"
workers = int(os.environ["WEB_CONCURRENCY"])
bind = "127.0.0.1:" + os.environ["PORT"]
worker_connections = 4096
keepalive = 75
http_parser = "python"  # the same as ours
limit_request_field_size = 32760
control_socket_disable = True
