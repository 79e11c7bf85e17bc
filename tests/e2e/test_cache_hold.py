"""`on_disconnect: hold` with the official client: a call that it repeats is paid once."""

import re
from pathlib import Path

import gevent
import openai
import requests

from tests.support.fake_upstream import CHAT, Conversation
from tests.support.raw_cache_house import CacheHouse, whole
from tests.support.wait import wait_until


def in_flight(house: CacheHouse) -> int:
    page = requests.get(f"{house.proxy.url}/metrics", timeout=30).text
    found = re.findall(r"^proxy_requests_in_flight(?:{.*})? (\S+)", page, re.MULTILINE)
    return sum(int(float(each)) for each in found)


def test_a_call_that_the_client_repeats_is_paid_once(tmp_path: Path) -> None:
    """The client gives up and asks again while its first request still runs upstream: other
    proxies paid for each try (ComfyUI#16204, wuphf#823, macprovider#762)."""

    def slow(talk: Conversation) -> None:
        talk.upstream.gate.acquire()
        whole(CHAT)(talk)

    # It works without a cache.
    with CacheHouse(tmp_path, CACHE_TTL="") as house:
        token = house.token(cache="off", on_disconnect="hold")
        name = house.upstream.script(slow)
        with openai.OpenAI(
            base_url=f"{house.proxy.url}/v1", api_key=token, timeout=2, max_retries=3
        ) as client:
            asking = gevent.spawn(
                client.chat.completions.create,
                model=name,
                messages=[{"role": "user", "content": "Hi"}],
                extra_headers={"X-Request-ID": "hold"},
            )
            wait_until(lambda: len(house.upstream.asked_for(name)) == 1)
            # The first try has been given up: from here on its response waits for the next.
            wait_until(lambda: in_flight(house) == 0)
            house.upstream.permit(4)
            assert asking.get(timeout=60).choices[0].message.content == "Hello there."
        assert len(house.upstream.asked_for(name)) == 1
        events: list[dict[str, object]] = []

        def arrived() -> bool:
            events.extend(house.proxy.events_so_far())
            return len(events) == 2

        wait_until(arrived)
        (paid,) = [each for each in events if "cache" not in each]
        (adopted,) = [each for each in events if "cache" in each]
        assert paid["outcome"] == "client_gone"
        assert (adopted["outcome"], adopted["cache"]) == ("cached", "collapsed")
        assert adopted["saved_completion_tokens"] == 12
