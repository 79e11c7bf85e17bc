"""One probe at two places: ask both, compare, and ask again before the proxy is blamed.

The thing to get wrong: a live API varies by itself. A difference that two calls of the upstream
show as well is not the proxy's; only for that is the upstream asked a second time.
"""

from dataclasses import dataclass
from typing import Final

from proxy.tools.verify.compare import Comparison, Finding, answered_by_proxy, compare
from proxy.tools.verify.probes import Probe
from proxy.tools.verify.raw_client import Endpoint, NoAnswer, RawResponse, Unreachable, call

#: Findings that CORS settings of the proxy may explain.
_CORS: Final = ("access-control-", "order", "vary")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two places, and the bearer that it takes."""

    endpoint: Endpoint
    bearer: str

    def ask(self, probe: Probe) -> RawResponse:
        """Raises :class:`Unreachable` and :class:`NoAnswer`, with the address in the message."""
        headers = [("Authorization", f"Bearer {self.bearer}"), *probe.headers]
        try:
            return call(self.endpoint, probe.method, probe.target, headers, probe.body)
        except (Unreachable, NoAnswer) as error:
            raise type(error)(f"no answer from {self.endpoint.url}: {error}") from error


@dataclass(slots=True)
class Row:
    """One probe and what it showed; an answer is None where there was none."""

    probe: Probe
    found: Comparison
    direct: RawResponse | None = None
    proxied: RawResponse | None = None


class Pair:
    """The upstream and the proxy."""

    def __init__(self, direct: Side, proxied: Side, exact: bool) -> None:
        self.direct = direct
        self.proxied = proxied
        self._exact = exact
        #: Whether the proxy has CORS configured; found out when it matters.
        self._cors: bool | None = None

    @property
    def secrets(self) -> list[str]:
        return [self.direct.bearer, self.proxied.bearer]

    def examine(self, probe: Probe) -> Row:
        row = Row(probe, Comparison())
        try:
            row.direct = self.direct.ask(probe)
            row.proxied = self.proxied.ask(probe)
            row.found = self._judge(probe, row.direct, row.proxied)
        except NoAnswer as error:
            row.found = Comparison([Finding("status", "none", str(error))], complete=False)
        return row

    def _judge(self, probe: Probe, direct: RawResponse, proxied: RawResponse) -> Comparison:
        if probe.asks_for_cors and proxied.status == 204 and answered_by_proxy(proxied):
            named = ["CORS is configured: the proxy answers preflights itself"]
            return Comparison(named=named, complete=False)
        found = self._compare(probe, direct, proxied)
        if any(key.startswith(_CORS) for _, key in found.places()) and self._has_cors():
            found = self._compare(probe, direct, proxied, cors=True)
        if found.differences and found.complete:
            self._ask_again(probe, direct, proxied, found)
        if not proxied.values("x-proxy-request-id"):
            text = "X-Proxy-Request-ID: none: does --base-url lead to the proxy?"
            found.differences.append(Finding("headers", "x-proxy-request-id", text))
        return found

    def _ask_again(
        self, probe: Probe, direct: RawResponse, proxied: RawResponse, found: Comparison
    ) -> None:
        """Forgive what the upstream alone shows, too."""
        again = self.direct.ask(probe)
        if again.status != direct.status == proxied.status:
            return  # a limit has been reached, say: not the same answer once more
        itself = self._compare(probe, direct, again).places()
        # Asked for with --exact: what varies by itself cannot be verified so.
        found.forgive(itself - {("body", "bytes")} if self._exact else itself)
        if ("timing", "pieces") in found.places():
            # A stall of the network can join pieces; a proxy that holds back does so every time.
            shown = self._compare(probe, again, self.proxied.ask(probe)).places()
            found.forgive({("timing", "pieces")} - shown)

    def _compare(
        self, probe: Probe, direct: RawResponse, proxied: RawResponse, cors: bool = False
    ) -> Comparison:
        return compare(direct, proxied, generative=probe.generative, exact=self._exact, cors=cors)

    def _has_cors(self) -> bool:
        """Whether a preflight, which carries no token, is answered and not refused."""
        if self._cors is None:
            headers = [
                ("Origin", "https://verify.invalid"),
                ("Access-Control-Request-Method", "GET"),
            ]
            answer = call(self.proxied.endpoint, "OPTIONS", "/v1/models", headers, b"")
            self._cors = answer.status == 204 and answered_by_proxy(answer)
        return self._cors
