"""Real servers for tests: started here, on a free port, in a temporary folder.

Never a server that happens to be running, and only what was started here is ended, by its pid.
"""

from tests.services.mariadb import MariaDB
from tests.services.moto import Moto
from tests.services.mysql import mysql_server
from tests.services.postgres import Postgres
from tests.services.prometheus import Prometheus
from tests.services.redis import RedisServer

__all__ = ["MariaDB", "Moto", "Postgres", "Prometheus", "RedisServer", "mysql_server"]
