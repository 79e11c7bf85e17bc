"""Real servers for tests: started here, on a free port, in a temporary folder.

Never a server that happens to be running, and only what was started here is ended, by its pid.
"""

from tests.support.services.mariadb import MariaDB
from tests.support.services.moto import Moto
from tests.support.services.mysql import mysql_server
from tests.support.services.postgres import Postgres
from tests.support.services.prometheus import Prometheus
from tests.support.services.redis import RedisServer

__all__ = ["MariaDB", "Moto", "Postgres", "Prometheus", "RedisServer", "mysql_server"]
