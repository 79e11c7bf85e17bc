"""``max_requests`` over two nodes of two workers, on MySQL: never exceeded, not even at once."""

from collections import Counter

import gevent

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import ProxyFactory
from tests.support.raw_requests import ask


def test_exact_over_nodes(own_proxy: ProxyFactory, mysql_url: str, upstream: Upstream) -> None:
    first, access = own_proxy.started(DATABASE_URL=mysql_url, WEB_CONCURRENCY="2")
    second = own_proxy(DATABASE_URL=mysql_url, WEB_CONCURRENCY="2").start()
    servers = [first, second]

    five = first.mint(access.project_id, max_requests=5)["token"]
    jobs = [gevent.spawn(ask, servers[number % 2], five) for number in range(20)]
    gevent.joinall(jobs, timeout=60)
    assert Counter(job.value.status for job in jobs) == {200: 5, 429: 15}
    assert len(upstream.received) == 5

    upstream.received.clear()
    many = first.mint(access.project_id, max_requests=300)

    def work(number: int) -> list[int]:
        return [ask(servers[number % 2], many["token"]).status for _ in range(40)]

    jobs = [gevent.spawn(work, number) for number in range(10)]
    gevent.joinall(jobs, timeout=120)
    statuses = Counter(status for job in jobs for status in job.value)
    assert statuses[200] == len(upstream.received) <= 300
    assert set(statuses) <= {200, 429}
    for server in servers:
        assert server.stop() == 0
    first.start()
    shown = first.manage("GET", f"/tokens/{many['id']}").json()
    assert shown["request_count"] == statuses[200], "what was not used has been returned"
    # What a worker held when others were refused is there again.
    rest = 300 - statuses[200]
    assert [ask(first, many["token"]).status for _ in range(rest + 1)] == [200] * rest + [429]
