"""Runs a probe on two sides, compares the responses, and repeats the call before it reports.

A live API varies by itself. A difference that two calls of the upstream show as well is not the
proxy's; only to find that out is the upstream called a second time.
"""

from dataclasses import dataclass
from typing import Final

from proxy.tools.verify.compare import Comparison, Finding, compare, made_by_proxy
from proxy.tools.verify.probes import Probe
from proxy.tools.verify.raw_client import Endpoint, NoResponse, Unreachable, WireResponse, call

#: Findings that the proxy's CORS settings may explain.
_CORS: Final = ("access-control-", "order", "vary")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers, and the bearer that it accepts."""

    endpoint: Endpoint
    bearer: str

    def ask(self, probe: Probe) -> WireResponse:
        """Sends ``probe``. Raises Unreachable and NoResponse, with the address in the message."""
        headers = [("Authorization", f"Bearer {self.bearer}"), *probe.headers]
        try:
            return call(self.endpoint, probe.method, probe.target, headers, probe.body)
        except (Unreachable, NoResponse) as error:
            raise type(error)(f"no response from {self.endpoint.url}: {error}") from error


@dataclass(slots=True)
class Row:
    """One probe and its result. A response is None if there was none."""

    probe: Probe
    found: Comparison
    direct: WireResponse | None = None
    proxied: WireResponse | None = None


class Pair:
    """The upstream and the proxy."""

    def __init__(self, direct: Side, proxied: Side, exact: bool) -> None:
        self.direct = direct
        self.proxied = proxied
        self._exact = exact
        #: Whether the proxy has CORS configured; found out on demand.
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
        except NoResponse as error:
            row.found = Comparison([Finding("status", "none", str(error))], complete=False)
        return row

    def _judge(self, probe: Probe, direct: WireResponse, proxied: WireResponse) -> Comparison:
        if probe.asks_for_cors and proxied.status == 204 and made_by_proxy(proxied):
            named = ["CORS is configured: the proxy responds to preflights itself"]
            return Comparison(named=named, complete=False)
        found = self._compare(probe, direct, proxied)
        if any(key.startswith(_CORS) for _, key in found.difference_keys()) and self._has_cors():
            found = self._compare(probe, direct, proxied, cors=True)
        if found.differences and found.complete:
            self._ask_again(probe, direct, proxied, found)
        if not proxied.values("x-proxy-request-id"):
            text = "X-Proxy-Request-ID: none: does --base-url lead to the proxy?"
            found.differences.append(Finding("headers", "x-proxy-request-id", text))
        return found

    def _ask_again(
        self, probe: Probe, direct: WireResponse, proxied: WireResponse, found: Comparison
    ) -> None:
        """Removes differences that the upstream alone shows, too."""
        again = self.direct.ask(probe)
        if again.status != direct.status == proxied.status:
            return  # another response than before; a limit may have been reached
        itself = self._compare(probe, direct, again).difference_keys()
        # For --exact: a response that varies by itself cannot be verified to the byte.
        found.forgive(itself - {("body", "bytes")} if self._exact else itself)
        if ("timing", "pieces") in found.difference_keys():
            # A stall of the network can join pieces; a proxy that holds back does so each time.
            shown = self._compare(probe, again, self.proxied.ask(probe)).difference_keys()
            found.forgive({("timing", "pieces")} - shown)

    def _compare(
        self, probe: Probe, direct: WireResponse, proxied: WireResponse, cors: bool = False
    ) -> Comparison:
        return compare(direct, proxied, generative=probe.generative, exact=self._exact, cors=cors)

    def _has_cors(self) -> bool:
        """Whether the proxy accepts a preflight, which carries no token."""
        if self._cors is None:
            headers = [
                ("Origin", "https://verify.invalid"),
                ("Access-Control-Request-Method", "GET"),
            ]
            response = call(self.proxied.endpoint, "OPTIONS", "/v1/models", headers, b"")
            self._cors = response.status == 204 and made_by_proxy(response)
        return self._cors
