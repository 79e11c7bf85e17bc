"""What front doors say of the client stays here; what is meant for an AI endpoint passes."""

import pytest

from proxy.upstream.headers import upstream_headers
from proxy.upstream.private_headers import is_private

WITHHELD = (
    "Forwarded Forwarded-For X-Forwarded X-Forwarded-For X-Forwarded-Proto "
    "X-Forwarded-Host X-Forwarded-Access-Token X-Forwarded-Email X-Original-Forwarded-For "
    "X-Real-IP Client-IP X-Client-IP X-Cluster-Client-IP X-Remote-IP X-Remote-Addr "
    "X-Original-Remote-Addr X-ProxyUser-Ip Proxy-Client-IP WL-Proxy-Client-IP "
    "True-Client-IP Akamai-Client-IP X-Akamai-Edgescape CF-Connecting-IP "
    "CF-Connecting-IPv6 CF-IPCountry CF-Ray CF-Access-Jwt-Assertion "
    "CF-Access-Client-Secret CDN-Loop Fastly-Client-IP Fly-Client-IP Fly-Region "
    "DO-Connecting-IP X-Nf-Client-Connection-IP X-Envoy-External-Address "
    "X-Envoy-Peer-Metadata X-Azure-ClientIP X-Azure-SocketIP X-Vercel-Forwarded-For "
    "X-Vercel-Proxied-For X-Vercel-IP-Country X-Vercel-IP-City CloudFront-Viewer-Address "
    "CloudFront-Viewer-Country CloudFront-Viewer-TLS X-Appengine-User-IP "
    "X-Appengine-User-Email X-Appengine-Country X-Appengine-CityLatLong "
    "X-Amzn-Oidc-Accesstoken X-Amzn-Oidc-Data X-Amzn-Oidc-Identity "
    "X-Goog-Iap-Jwt-Assertion X-Auth-Request-Access-Token X-Ms-Token-Aad-Access-Token "
    "X-Ms-Token-Google-Id-Token "
)
#: Of the same vendors, and of names that only look alike.
PASSING = (
    "cf-aig-authorization cf-aig-cache-ttl cf-aig-metadata X-Amzn-Bedrock-Trace X-Amz-Date "
    "X-Amz-Security-Token X-Amzn-Trace-Id X-Ms-Client-Request-Id X-Ms-Useragent "
    "X-Ms-Version X-Azure-Ref api-key X-Goog-Api-Key X-Goog-User-Project X-Goog-Api-Client "
    "X-Vercel-Id X-Vercel-AI-Data-Stream Fastly-Debug X-Appengine-Default-Version-Hostname "
    "CloudFront-Is-Mobile-Viewer X-Auth-Request-Redirect X-Client-Name Client-Id "
    "X-Real-Name X-Request-ID Cookie session_id OpenAI-Organization anthropic-version "
    "traceparent "
)


@pytest.mark.parametrize("name", WITHHELD.split())
def test_withheld(name: str) -> None:
    assert is_private(name.upper())
    assert upstream_headers([(name.upper(), "203.0.113.9")]) == []


@pytest.mark.parametrize("name", PASSING.split())
def test_passing(name: str) -> None:
    assert not is_private(name.upper())
    assert upstream_headers([(name.upper(), "x")]) == [(name.title(), "x")]
