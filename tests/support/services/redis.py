"""Redis (or Valkey)."""

from urllib.parse import quote

import redis

from tests.support.services.process import Process, require


class RedisServer(Process):
    """A Redis of our own, with a password; what it holds survives :meth:`halt`."""

    password = "s3:cr/t"

    def command(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.folder,
            "requirepass": self.password,
            "appendonly": "yes",
            "appendfsync": "no",
            "save": "",
        }
        return [
            require("redis-server", "valkey-server", package="redis-server"),
            *(part for name, value in options.items() for part in (f"--{name}", str(value))),
        ]

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True)

    def follow(self, primary: "RedisServer") -> None:
        """Become a replica of ``primary``, with its content; connections stay, writes fail."""
        with self.client() as client:
            client.config_set("masterauth", primary.password)
            client.replicaof("127.0.0.1", primary.port)  # type: ignore[no-untyped-call]

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """By way of ``port``, behind which somebody leads here."""
        return f"redis://:{quote(self.password, safe='')}@127.0.0.1:{port}/0"
