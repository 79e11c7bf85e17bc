"""A chat completion request as a request for Anthropic's Messages API.

A decoded request in, a decoded request out, without I/O; other greenlets run between the parts of a
long one. The original is not changed. Fields that cannot be kept are refused where the response
would mislead, and dropped and reported where it would not.

Sources: https://platform.claude.com/docs/en/api/messages, Anthropic's Python SDK (`types/`), and
OpenAI's API specification.
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.core.errors import ClientError
from proxy.providers.anthropic import data_url
from proxy.providers.anthropic.refused import BOTH
from proxy.providers.anthropic.schema import structured_schema
from proxy.providers.anthropic.translated import MAX_STOPS, wrong
from proxy.providers.base import NO_FACTS, ModelFacts
from proxy.runtime.yielding import joined, turn_if_due
from proxy.usage.json_slices import AT_ONCE
from proxy.usage.json_text import JSONText, LargeDict, LargeList, LongString, Text, is_text
from proxy.usage.large import LargeObject

Block = dict[str, Any]

#: `max_tokens` is required. Without a bound of the client or the configuration it is this one.
DEFAULT_MAX_TOKENS: Final = 8192
#: More than that is not asked for unless the client does, though the model may allow it.
MAX_STREAMED_TOKENS: Final = 32_000
MAX_BUFFERED_TOKENS: Final = 16_384

_IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_EFFORT_LEVELS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_THINKING_TYPES: Final = ("enabled", "disabled", "adaptive", "between_tools")
#: Parameters whose zero says nothing.
_PENALTIES: Final = frozenset({"frequency_penalty", "presence_penalty"})
_NOT_IN_IDS: Final = re.compile(r"[^A-Za-z0-9_-]")
#: Of the arguments of one call; brackets that close included.
MAX_MEMBERS: Final = 10_000
MAX_BRACKETS: Final = 1024 * 1024
#: Parameters with a meaning of their own here. All others are dropped.
_KNOWN: Final = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "temperature",
        "top_p",
        "top_k",
        "thinking",
        "stop",
        "stream",
        "stream_options",
        "n",
        "user",
        "safety_identifier",
        "service_tier",
        "functions",
        "function_call",
        "audio",
        "modalities",
        "cache_control",
    }
)
_EFFORTS: Final[Mapping[str, str]] = {"minimal": "low"}
_BUDGETS: Final[Mapping[str, int]] = {
    "minimal": 1024,
    "low": 1024,
    "medium": 2048,
    "high": 4096,
    "xhigh": 8192,
    "max": 16_384,
}
_MIN_BUDGET: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationOptions:
    #: The upstream's name of the model.
    model: str
    #: Of the provider's configuration.
    max_tokens: int | None = None
    #: Whether what cannot be kept is refused.
    strict: bool = False
    #: Whether signed thinking in the history may be sent: it must be this provider's own.
    keep_thinking: bool = True
    facts: ModelFacts = NO_FACTS
    #: Parameters that the model is known to refuse.
    refused: frozenset[str] = frozenset()


def messages_request(
    chat: Mapping[str, Any], options: TranslationOptions
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the request for `/v1/messages`, and the names of parameters that were left out.

    Raises ClientError `invalid_request` whose `param` is the path of what cannot be translated.
    """
    return _Translation(chat, options).run()


def _has_text(block: Mapping[str, Any], *names: str) -> bool:
    """Whether the members are strings, of which the last is not empty."""
    return all(is_text(block.get(name)) for name in names) and bool(block[names[-1]])


def _is_thinking(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") in ("thinking", "redacted_thinking")


class _Conversation:
    """The messages so far. Tool results stand in one user's turn, before anything else of it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        # Whether the last message is made of tool results, behind which a user's blocks go.
        self._results = False

    def add(self, role: str, blocks: list[Block]) -> None:
        """Add a turn. Anthropic takes none without blocks."""
        if not blocks:
            return
        if role == "user" and self._results:
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": role, "content": blocks})
        self._results = False

    def add_result(self, block: Block) -> None:
        if self._results:
            self.messages[-1]["content"].append(block)
        else:
            # Results of many calls may stand here, which are large together.
            self.messages.append({"role": "user", "content": LargeList([block])})
        self._results = True


class _Translation:
    def __init__(self, chat: Mapping[str, Any], options: TranslationOptions) -> None:
        self._chat = chat
        self._options = options
        self._dropped: list[str] = []
        self._system: list[Block] = []
        # Whether an effort has become thinking, which the client did not ask for by its name.
        self._with_budget = False

    def run(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        chat = self._chat
        self._refuse()
        messages = self._messages()
        made: dict[str, Any] = {"model": self._options.model, "max_tokens": self._max_tokens()}
        self._format(made)
        tools = self._tools()
        choice = self._tool_choice(tools)
        if tools:
            made["tools"] = LargeList(tools)
        if choice is not None:
            made["tool_choice"] = choice
        self._thinking(made, messages)
        self._sampling(made)
        if stops := self._stops():
            made["stop_sequences"] = stops
        if chat.get("stream") is True:
            made["stream"] = True
        self._account(made)
        _cached(made, chat, "cache_control")
        if self._system:
            made["system"] = LargeList(self._system)
        made["messages"] = LargeList(messages)
        for name, value in chat.items():
            if name not in _KNOWN and not _says_nothing(name, value):
                self._drop(name)
        return made, tuple(dict.fromkeys(self._dropped))

    def _drop(self, name: str) -> None:
        """Leave a parameter out, or refuse it."""
        if self._options.strict:
            raise ClientError(f"The provider of this model does not take `{name}`.", param=name)
        self._dropped.append(name)

    def _refuse(self) -> None:
        """Refuse what would make the response mislead."""
        chat = self._chat
        if chat.get("n") not in (None, 1):
            raise wrong("n", "must be 1 for this model: it makes one choice")
        if chat.get("functions") is not None or chat.get("function_call") is not None:
            raise wrong("functions", "is not supported by this model: use `tools`")
        modalities = chat.get("modalities")
        if chat.get("audio") is not None or (
            isinstance(modalities, list) and "audio" in modalities
        ):
            raise wrong("modalities", "must be text alone: this model makes no audio")

    def _max_tokens(self) -> int:
        for name in ("max_completion_tokens", "max_tokens"):
            given = self._chat.get(name)
            if given is not None:
                if not isinstance(given, int) or isinstance(given, bool) or given < 1:
                    raise wrong(name, "must be a positive integer")
                return given
        default, most = self._options.max_tokens, self._options.facts.max_tokens
        if default is not None:
            # It is for all models of the provider, of which some may write less.
            return default if most is None else min(default, most)
        if most is None:
            return DEFAULT_MAX_TOKENS
        streamed = self._chat.get("stream") is True
        return min(most, MAX_STREAMED_TOKENS if streamed else MAX_BUFFERED_TOKENS)

    # Messages.

    def _messages(self) -> list[dict[str, Any]]:
        given = self._chat.get("messages")
        if not isinstance(given, list):
            raise wrong("messages", "must be a list")
        conversation = _Conversation()
        for index, message in enumerate(given):
            turn_if_due()
            path = f"messages[{index}]"
            if not isinstance(message, dict):
                raise wrong(path, "must be an object")
            role = message.get("role")
            content = message.get("content")
            if role in ("system", "developer"):
                self._system += _cached_at_end(
                    self._texts(content, f"{path}.content"), message, path
                )
            elif role == "tool":
                conversation.add_result(self._tool_result(message, path))
            elif role == "user":
                blocks = _cached_at_end(self._blocks(content, f"{path}.content"), message, path)
                conversation.add("user", _marked(blocks, message))
            elif role == "assistant":
                conversation.add("assistant", _marked(self._assistant(message, path), message))
            else:
                raise wrong(f"{path}.role", "must be system, developer, user, assistant or tool")
        if not conversation.messages:
            raise wrong("messages", "must hold at least one message that is not empty")
        return conversation.messages

    def _texts(self, content: Any, path: str) -> list[Block]:
        """The text blocks of a content: Anthropic takes no blank ones."""
        if content is None:
            return []
        if is_text(content):
            return [] if _is_blank(content) else [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise wrong(path, "must be a string or a list of parts")
        found = []
        for index, part in enumerate(content):
            turn_if_due()
            block = self._text(part, f"{path}[{index}]")
            if block is not None:
                found.append(block)
        return found

    def _text(self, part: Any, path: str) -> Block | None:
        if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
            raise wrong(path, "must be a text part")
        text = part.get(part["type"])
        if not is_text(text):
            raise wrong(f"{path}.{part['type']}", "must be a string")
        return None if _is_blank(text) else _cached({"type": "text", "text": text}, part, path)

    def _blocks(self, content: Any, path: str) -> list[Block]:
        """A user's content."""
        if content is None or is_text(content):
            return self._texts(content, path)
        if not isinstance(content, list):
            raise wrong(path, "must be a string or a list of parts")
        found = []
        for index, part in enumerate(content):
            turn_if_due()
            block = self._part(part, f"{path}[{index}]")
            if block is not None:
                found.append(block)
        return found

    def _part(self, part: Any, path: str) -> Block | None:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            return self._text(part, path)
        if kind == "image_url":
            return _cached(_image(part.get("image_url"), f"{path}.image_url"), part, path)
        if kind == "file":
            return _cached(_file(part.get("file"), f"{path}.file"), part, path)
        if kind == "input_audio":
            raise wrong(path, "must not be audio: this model hears none")
        if kind in ("document", "search_result", "image"):  # as Anthropic writes them
            return _copied(part)
        raise wrong(f"{path}.type", "must be text, image_url or file")

    def _tool_result(self, message: Mapping[str, Any], path: str) -> Block:
        block: Block = {
            "type": "tool_result",
            "tool_use_id": _tool_id(message.get("tool_call_id"), f"{path}.tool_call_id"),
        }
        content = self._blocks(message.get("content"), f"{path}.content")
        if content:
            plain = is_text(message.get("content"))
            block["content"] = message["content"] if plain else _marked(content, message)
        return _cached(block, message, path)

    def _assistant(self, message: Mapping[str, Any], path: str) -> list[Block]:
        blocks = self._signed_thinking(message)
        blocks += self._texts(message.get("content"), f"{path}.content")
        refusal = message.get("refusal")
        if is_text(refusal) and not _is_blank(refusal):
            blocks.append({"type": "text", "text": refusal})
        calls = message.get("tool_calls")
        if calls is not None and not isinstance(calls, list):
            raise wrong(f"{path}.tool_calls", "must be a list")
        for index, call in enumerate(calls or ()):
            turn_if_due()
            blocks.append(_tool_use(call, f"{path}.tool_calls[{index}]"))
        return _cached_at_end(blocks, message, path)

    def _signed_thinking(self, message: Mapping[str, Any]) -> list[Block]:
        """Thinking that has its signature. Unsigned or foreign thinking is refused upstream."""
        given = message.get("thinking_blocks")
        if not isinstance(given, list) or not self._options.keep_thinking:
            return []
        return [
            _copied(block)
            for block in given
            if isinstance(block, dict)
            and (
                (block.get("type") == "thinking" and _has_text(block, "thinking", "signature"))
                or (block.get("type") == "redacted_thinking" and _has_text(block, "data"))
            )
        ]

    # Tools.

    def _tools(self) -> list[dict[str, Any]]:
        given = self._chat.get("tools")
        if given is None:
            return []
        if not isinstance(given, list):
            raise wrong("tools", "must be a list")
        allowed = self._allowed_tools()
        found = []
        for index, tool in enumerate(given):
            turn_if_due()
            path = f"tools[{index}]"
            if not isinstance(tool, dict) or tool.get("type", "function") != "function":
                raise wrong(f"{path}.type", "must be function for this model")
            function = tool.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise wrong(f"{path}.function.name", "must be a string")
            if allowed is not None and function["name"] not in allowed:
                continue
            schema = function.get("parameters")
            if schema is None:
                schema = {"type": "object", "properties": {}}
            if not isinstance(schema, dict):
                raise wrong(f"{path}.function.parameters", "must be an object")
            made = {"name": function["name"]}
            if is_text(function.get("description")):
                made["description"] = function["description"]
            made["input_schema"] = schema if "type" in schema else _object_of(schema)
            if isinstance(function.get("strict"), bool):
                made["strict"] = function["strict"]
            found.append(_cached(_cached(made, tool, path), function, path))
        return found

    def _allowed_tools(self) -> frozenset[str] | None:
        """The names that `tool_choice: allowed_tools` leaves. None: all."""
        choice = self._chat.get("tool_choice")
        if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
            return None
        allowed = choice.get("allowed_tools", choice)
        names = set()
        tools = allowed.get("tools") if isinstance(allowed, dict) else None
        for tool in tools if isinstance(tools, list) else ():
            turn_if_due()
            function = tool.get("function", tool) if isinstance(tool, dict) else None
            if isinstance(function, dict) and isinstance(function.get("name"), str):
                names.add(function["name"])
        return frozenset(names)

    def _tool_choice(self, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        given = self._chat.get("tool_choice")
        if not tools:
            return None
        choice: dict[str, Any] | None = None
        if isinstance(given, str):
            kinds = {"auto": "auto", "none": "none", "required": "any"}
            if given not in kinds:
                raise wrong("tool_choice", "must be auto, none, required, or an object")
            choice = {"type": kinds[given]}
        elif isinstance(given, dict) and given.get("type") == "function":
            function = given.get("function")
            name = function.get("name") if isinstance(function, dict) else None
            if not isinstance(name, str):
                raise wrong("tool_choice.function.name", "must be a string")
            choice = {"type": "tool", "name": name}
        elif isinstance(given, dict) and given.get("type") == "allowed_tools":
            allowed = given.get("allowed_tools", given)
            mode = allowed.get("mode") if isinstance(allowed, dict) else None
            choice = {"type": "any" if mode == "required" else "auto"}
        elif given is not None:
            raise wrong("tool_choice", "must be auto, none, required, or an object of a function")
        if self._chat.get("parallel_tool_calls") is False:
            choice = choice or {"type": "auto"}
            if choice["type"] != "none":
                choice["disable_parallel_tool_use"] = True
        return choice

    # Output.

    def _format(self, made: dict[str, Any]) -> None:
        given = self._chat.get("response_format")
        if given is None:
            return
        kind = given.get("type") if isinstance(given, dict) else None
        if kind == "text":
            return
        if kind == "json_object":
            if self._options.strict:
                raise wrong("response_format", "must be json_schema or text for this model")
            self._system.append(
                {"type": "text", "text": "Respond with one valid JSON object and nothing else."}
            )
            return
        if kind != "json_schema":
            raise wrong("response_format.type", "must be text, json_object or json_schema")
        schema = given.get("json_schema")
        schema = schema.get("schema") if isinstance(schema, dict) else None
        if not isinstance(schema, dict):
            raise wrong("response_format.json_schema.schema", "must be an object")
        try:
            cleaned = structured_schema(schema)
        except ValueError as error:
            raise wrong("response_format.json_schema.schema", f"is refused: {error}") from error
        made["output_config"] = {"format": {"type": "json_schema", "schema": cleaned}}

    def _thinking(self, made: dict[str, Any], messages: Sequence[Mapping[str, Any]]) -> None:
        given = self._chat.get("thinking")
        if given is not None:
            kind = given.get("type") if isinstance(given, dict) else None
            if kind not in _THINKING_TYPES:
                raise wrong("thinking.type", f"must be one of: {', '.join(_THINKING_TYPES)}")
            if kind == "enabled" and type(given.get("budget_tokens")) is not int:
                raise wrong("thinking.budget_tokens", "must be an integer")
            if given.get("type") == "disabled" or not self._thinking_refused(made, messages):
                made["thinking"] = given
            else:
                self._drop("thinking")
            return
        effort = self._chat.get("reasoning_effort")
        if effort is None:
            return
        if effort not in _EFFORT_LEVELS:
            raise wrong("reasoning_effort", f"must be one of: {', '.join(_EFFORT_LEVELS)}")
        facts = self._options.facts
        if effort == "none":
            if facts.thinking is not None and "disabled" in facts.thinking:
                made["thinking"] = {"type": "disabled"}
            else:
                self._drop("reasoning_effort")
        elif "reasoning_effort" in self._options.refused or facts.efforts is None:
            self._drop("reasoning_effort")
        elif facts.efforts:
            made.setdefault("output_config", {})["effort"] = self._level(effort, facts.efforts)
        else:
            self._budget(effort, made, messages)

    def _budget(
        self, effort: str, made: dict[str, Any], messages: Sequence[Mapping[str, Any]]
    ) -> None:
        """Thinking by a budget, for models that take no effort."""
        budget = min(_BUDGETS[effort], made["max_tokens"] - 1)
        if (
            "enabled" not in (self._options.facts.thinking or ())
            or budget < _MIN_BUDGET
            or self._thinking_refused(made, messages)
        ):
            self._drop("reasoning_effort")
        else:
            made["thinking"] = {"type": "enabled", "budget_tokens": budget}
            self._with_budget = True

    def _level(self, effort: str, efforts: Set[str]) -> str:
        """Return the level of Anthropic's for one of OpenAI's: the next lower one that the model
        takes, else its lowest.
        """
        level = _EFFORTS.get(effort, effort)
        if level not in efforts and self._options.strict:
            raise ClientError(
                f"The model does not take the `reasoning_effort` {effort!r}.",
                param="reasoning_effort",
            )
        place = _EFFORT_LEVELS.index(level)
        lower = [each for each in _EFFORT_LEVELS[: place + 1] if each in efforts]
        return lower[-1] if lower else next(each for each in _EFFORT_LEVELS if each in efforts)

    @staticmethod
    def _thinking_refused(made: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> bool:
        """Whether thinking is refused beside a forced tool, or behind unsigned tool calls."""
        if made.get("tool_choice", {}).get("type") in ("any", "tool"):
            return True
        for message in reversed(messages):
            if message["role"] == "assistant":
                turn = message["content"]
                calls = any(block["type"] == "tool_use" for block in turn)
                return calls and not _is_thinking(turn[0])
        return False

    def _sampling(self, made: dict[str, Any]) -> None:
        refused = self._options.refused
        if BOTH in refused and self._chat.get("temperature") is not None:
            refused = refused | {"top_p"}
        for name in ("temperature", "top_p", "top_k"):
            value = self._chat.get(name)
            if value is None:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise wrong(name, "must be a number")
            if name == "top_k" and not isinstance(value, int):
                raise wrong(name, "must be an integer")
            # Beside thinking, Anthropic takes no temperature but 1, and no choice of tokens
            # (https://platform.claude.com/docs/en/build-with-claude/extended-thinking).
            if name in refused or (self._with_budget and not _is_default(name, value)):
                self._drop(name)
            else:
                made[name] = value if name == "top_k" else min(value, 1)

    def _stops(self) -> list[str]:
        given = self._chat.get("stop")
        stops = [given] if isinstance(given, str) else given
        if stops is None:
            return []
        if isinstance(stops, list) and len(stops) > MAX_STOPS:
            raise wrong("stop", f"must be a list of at most {MAX_STOPS} strings")
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise wrong("stop", "must be a string or a list of strings")
        return [stop for stop in stops if stop.strip()]

    def _account(self, made: dict[str, Any]) -> None:
        user = self._chat.get("safety_identifier") or self._chat.get("user")
        if isinstance(user, str) and user:
            made["metadata"] = {"user_id": user}
        tier = self._chat.get("service_tier")
        if tier in ("auto", "standard_only"):
            made["service_tier"] = tier
        elif tier == "default":
            made["service_tier"] = "standard_only"
        elif tier is not None:
            self._drop("service_tier")


def _says_nothing(name: str, value: Any) -> bool:
    """Whether a parameter means the same as none."""
    return value is None or value is False or (name in _PENALTIES and value == 0)


def _is_default(name: str, value: float) -> bool:
    return name != "top_k" and value >= 1


def _cached(block: Block, source: Mapping[str, Any], path: str) -> Block:
    """Keep `cache_control` of what a block was made from."""
    given = source.get("cache_control")
    if given is not None:
        if not isinstance(given, dict) or given.get("type") != "ephemeral":
            raise wrong(f"{path}.cache_control", "must be an object of the type ephemeral")
        block["cache_control"] = given
    return block


def _cached_at_end(blocks: list[Block], message: Mapping[str, Any], path: str) -> list[Block]:
    """Keep `cache_control` of a whole message: it stands at its last block, of thinking at none."""
    if blocks and not _is_thinking(blocks[-1]):
        _cached(blocks[-1], message, path)
    return blocks


def _tool_id(given: Any, path: str) -> str:
    """An id in the characters that Anthropic takes, the same for a call and its result."""
    if not isinstance(given, str) or not given:
        raise wrong(path, "must be a string that is not empty")
    return _NOT_IN_IDS.sub("_", given)


def _tool_use(call: Any, path: str) -> Block:
    if not isinstance(call, dict) or call.get("type", "function") != "function":
        raise wrong(f"{path}.type", "must be function for this model")
    function = call.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise wrong(f"{path}.function.name", "must be a string")
    arguments = function.get("arguments", "")
    where = f"{path}.function.arguments"
    if not is_text(arguments):
        raise wrong(where, "must be a string")
    try:
        value = {} if _is_blank(arguments) else _decoded(arguments)
    except ValueError as error:
        raise wrong(where, f"must be a valid JSON object: {error}") from error
    if not isinstance(value, dict | JSONText):
        raise wrong(where, "must be a JSON object")
    return {
        "type": "tool_use",
        "id": _tool_id(call.get("id"), f"{path}.id"),
        "name": name,
        "input": value,
    }


def _decoded(text: Text) -> Any:
    """Decode JSON; a large object is checked, and stays text. Raises ValueError."""
    if isinstance(text, str):
        if len(text) <= AT_ONCE:
            return orjson.loads(text)
        data = text.encode()
    else:
        data = joined([piece.encode() for piece in text.decoded()])
    data = data.strip(b" \t\r\n")
    for _ in LargeObject(data, MAX_MEMBERS, MAX_BRACKETS).steps():
        turn_if_due()
    return JSONText(data)


def _copied(block: Block) -> Block:
    return LargeDict(block) if isinstance(block, LargeDict) else dict(block)


def _object_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without a type as that of an object."""
    made = {"type": "object", **schema}
    return LargeDict(made) if isinstance(schema, LargeDict) else made


def _image(given: Any, path: str) -> Block:
    url = given.get("url") if isinstance(given, dict) else given
    if not is_text(url):
        raise wrong(f"{path}.url", "must be a string")
    if _beginning(url)[:5].lower() == "data:":
        media_type, data = _data_url(url, f"{path}.url")
        if media_type == "application/pdf":
            return _document(media_type, data, f"{path}.url")
        if media_type == "image/jpg":  # no such type, and often sent
            media_type = "image/jpeg"
        if media_type not in _IMAGES:
            raise wrong(f"{path}.url", "must be a JPEG, PNG, GIF or WebP image, or a PDF")
        source = {"type": "base64", "media_type": media_type, "data": data}
        return {"type": "image", "source": source}
    if not isinstance(url, str):
        raise wrong(f"{path}.url", "must be a data URL, where it is so long")
    if not url.lower().startswith(("https://", "http://")):
        raise wrong(f"{path}.url", "must be an https or a data URL")
    pdf = url.partition("?")[0].partition("#")[0].lower().endswith(".pdf")
    # Never fetched here: the URL is the upstream's to follow.
    return {"type": "document" if pdf else "image", "source": {"type": "url", "url": url}}


def _file(given: Any, path: str) -> Block:
    if not isinstance(given, dict):
        raise wrong(path, "must be an object")
    if given.get("file_id") is not None:
        raise wrong(f"{path}.file_id", "names a file of another provider: send `file_data`")
    data = given.get("file_data")
    if not is_text(data):
        raise wrong(f"{path}.file_data", "must be a string")
    if _beginning(data)[:5].lower() == "data:":
        media_type, data = _data_url(data, f"{path}.file_data")
    else:
        media_type = "application/pdf"
    if media_type not in ("application/pdf", "text/plain"):
        raise wrong(f"{path}.file_data", "must be a PDF or plain text")
    block = _document(media_type, data, f"{path}.file_data")
    if isinstance(given.get("filename"), str):
        block["title"] = given["filename"]
    return block


def _document(media_type: str, data: Text, path: str) -> Block:
    if media_type == "text/plain":
        try:
            text = data_url.text_of(data)
        except ValueError as error:
            raise wrong(path, "must be plain text in UTF-8, as base64") from error
        return {
            "type": "document",
            "source": {"type": "text", "media_type": media_type, "data": text},
        }
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"type": "document", "source": source}


def _data_url(url: Text, path: str) -> tuple[str, Text]:
    try:
        return data_url.read(url)
    except ValueError as error:
        raise wrong(path, str(error)) from error


def _is_blank(text: Text) -> bool:
    return text.is_blank() if isinstance(text, LongString) else not text.strip()


def _beginning(text: Text) -> str:
    return text.head if isinstance(text, LongString) else text


def _marked(items: list[Any], source: Any) -> list[Any]:
    """Return the list as one that is encoded item by item, if what it was made from is large."""
    return LargeList(items) if isinstance(source, LargeDict | LargeList) else items
