"""Header lines from load balancers and CDNs that identify the client: they do not go upstream.

Load balancers and CDNs in front of the proxy write the client's address, its location, and tokens
of its login into the request. The upstream is a third party, and gets none of them.

The tables are closed. A vendor's whole prefix would include headers that are meant for the same
vendor's AI endpoint (`cf-aig-*`, `X-Amzn-Bedrock-*`, `x-ms-client-request-id`). So only the names
below are withheld. Each is documented by its vendor.
"""

from typing import Final

#: Upper case, like all inbound names.
_NAMES: Final = frozenset(
    {
        # RFC 7239, and the usual names before it.
        "FORWARDED",
        "FORWARDED-FOR",
        "X-FORWARDED",
        "CLIENT-IP",
        "X-CLIENT-IP",
        "X-REAL-IP",
        "X-REMOTE-IP",
        "X-REMOTE-ADDR",
        "X-ORIGINAL-REMOTE-ADDR",
        "X-PROXYUSER-IP",
        "PROXY-CLIENT-IP",
        "WL-PROXY-CLIENT-IP",
        "X-CLUSTER-CLIENT-IP",
        # Akamai, Cloudflare Enterprise; Akamai; DigitalOcean; Netlify.
        "TRUE-CLIENT-IP",
        "AKAMAI-CLIENT-IP",
        "X-AKAMAI-EDGESCAPE",
        "DO-CONNECTING-IP",
        "X-NF-CLIENT-CONNECTION-IP",
        # Azure Front Door; Vercel; App Engine.
        "X-AZURE-CLIENTIP",
        "X-AZURE-SOCKETIP",
        "X-VERCEL-PROXIED-FOR",
        "X-APPENGINE-COUNTRY",
        "X-APPENGINE-REGION",
        "X-APPENGINE-CITY",
        "X-APPENGINE-CITYLATLONG",
        # RFC 8586: which CDNs the request came through to this proxy.
        "CDN-LOOP",
        # Credentials: Google's Identity-Aware Proxy; oauth2-proxy.
        "X-GOOG-IAP-JWT-ASSERTION",
        "X-AUTH-REQUEST-ACCESS-TOKEN",
    }
)
_PREFIXES: Final = (
    "X-FORWARDED-",
    "X-ORIGINAL-FORWARDED-",
    "CF-",
    "CLOUDFRONT-VIEWER-",
    "FASTLY-CLIENT-",
    "FLY-",
    "X-APPENGINE-USER-",
    "X-ENVOY-",
    "X-VERCEL-FORWARDED-",
    "X-VERCEL-IP-",
    # Credentials: Amazon's load balancers; Azure App Service.
    "X-AMZN-OIDC-",
    "X-MS-TOKEN-",
)
#: Cloudflare's AI Gateway is an upstream.
_PASSES: Final = "CF-AIG-"


def is_private(name: str) -> bool:
    """Whether a request header, its name in upper case, is withheld from the upstream."""
    if name.startswith(_PASSES):
        return False
    return name in _NAMES or name.startswith(_PREFIXES)
