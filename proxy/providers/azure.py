"""Azure OpenAI and Foundry: the same bodies under other paths, with `api-key` or a bearer.

Sources: https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle (`v1`), and
`lib/azure.py` of OpenAI's Python SDK (dated versions, which endpoints have a deployment).

Responses pass as they are: clients of Azure know its filter results, first chunks without choices
and last ones without a delta.
"""

from typing import Final
from urllib.parse import quote

from proxy.core.errors import ClientError
from proxy.providers.base import (
    EditableBody,
    HeaderList,
    OutboundRequest,
    PreparedCall,
    ResponseTransform,
    Target,
    Translation,
)
from proxy.providers.preparing import bearer, below_v1, call_to, edited, headers_for
from proxy.providers.request_target import with_query_model, with_query_value

#: Versions below `/openai/v1`. All others are dates, with the deployment in the path.
_NEW: Final = frozenset({"", "v1", "preview", "latest"})
#: Endpoints that belong to a deployment in dated versions.
_OF_A_DEPLOYMENT: Final = frozenset(
    {
        b"completions",
        b"chat/completions",
        b"embeddings",
        b"audio/transcriptions",
        b"audio/translations",
        b"audio/speech",
        b"images/generations",
        b"images/edits",
    }
)


class AzureProvider:
    """The prefix of its targets is the resource's, without `/openai`."""

    def prepare(
        self,
        request: OutboundRequest,
        target: Target,
        upstream_key: str | None,
        body: EditableBody | None = None,
    ) -> PreparedCall:
        """Return the call under Azure's path, with one credential and never two.

        Raises ClientError: `invalid_request` without a model where it names the deployment, or
        with one that is no segment of a path.
        """
        version = target.config.api_version
        if version in _NEW:
            request, dropped = edited(request, target, body)
            rest, query = below_v1(request.target)
            path = b"/openai/v1/" + rest + query
            if version in ("preview", "latest"):
                path = with_query_value(path, "api-version", version)
        else:
            path = _dated_path(request, target, body, version)
            request, dropped = edited(request, target, body)
        credential = bearer(upstream_key)
        if upstream_key is not None and target.config.auth != "bearer":
            credential = ("api-key", upstream_key)
        headers = headers_for(target, request.headers, credential)
        return call_to(target, request, path, headers, dropped=dropped)

    def transform(
        self,
        target: Target,
        path: str,
        status: int,
        headers: HeaderList,
        translation: Translation | None = None,
    ) -> ResponseTransform | None:
        """None: it speaks the dialect."""
        return None


def _dated_path(
    request: OutboundRequest, target: Target, body: EditableBody | None, version: str
) -> bytes:
    rest, query = below_v1(request.target)
    if rest in _OF_A_DEPLOYMENT:
        deployment = target.model or (body.model if body is not None else None)
        if not deployment:
            raise ClientError("`model` is missing: it names the deployment.", param="model")
        if deployment in (".", ".."):
            # Escapes do not help: servers resolve `%2E%2E` too (WHATWG URL §4.4).
            raise ClientError("`model` must be the name of a deployment.", param="model")
        rest = b"deployments/" + quote(deployment, safe="").encode() + b"/" + rest
    elif rest == b"realtime":
        query = with_query_model(query, target.model, name="deployment")
    return with_query_value(b"/openai/" + rest + query, "api-version", version)
