"""A request for Anthropic's Messages API as a chat completion request. Pure.

A decoded request in, a decoded request out. The original is not changed. What cannot be kept is
refused where the response would mislead, and dropped and reported where it would not.

Sources: https://platform.claude.com/docs/en/api/messages, Anthropic's Python SDK (`types/`), and
OpenAI's API specification.
"""

import codecs
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Final

import orjson

from proxy.core.errors import ClientError
from proxy.providers.anthropic.translated import MAX_STOPS, wrong
from proxy.runtime.yielding import turn_if_due
from proxy.usage.json_slices import AT_ONCE
from proxy.usage.json_text import (
    LargeDict,
    LargeList,
    LongString,
    Text,
    encoded_in_turns,
    is_text,
)

Part = dict[str, Any]

#: Parameters with a meaning of their own here. All others are dropped.
_KNOWN: Final = frozenset(
    {
        "model",
        "messages",
        "system",
        "max_tokens",
        "metadata",
        "output_config",
        "stop_sequences",
        "stream",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_p",
    }
)
#: Blocks of an assistant's turn that are no part of a chat: thoughts, which are signed by their
#: provider, and the calls of tools that run at Anthropic's.
_LEFT_OUT: Final = frozenset(
    {"thinking", "redacted_thinking", "server_tool_use", "mcp_tool_use", "fallback"}
)
#: Member of a tool → its name in a function, and its type.
_OF_A_TOOL: Final[Sequence[tuple[str, str, Any, str]]] = (
    ("description", "description", (str, LongString), "a string"),
    ("input_schema", "parameters", dict, "an object"),
    ("strict", "strict", bool, "a boolean"),
)
#: Parameter → its name in a chat, and its type.
_SIMPLE: Final = (
    ("max_tokens", "max_completion_tokens", int, "an integer"),
    ("temperature", "temperature", (int, float), "a number"),
    ("top_p", "top_p", (int, float), "a number"),
)
#: Blocks that may stand in a result of a tool, and in a document.
_OF_A_RESULT: Final = frozenset({"text", "image", "document", "search_result"})
_OF_A_DOCUMENT: Final = frozenset({"text", "image"})
_TOOL_CHOICES: Final[Mapping[str, str]] = {"auto": "auto", "any": "required", "none": "none"}
#: Efforts of both APIs, by the same names.
_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
#: The effort of a request that thinks and names none.
_DEFAULT_EFFORT: Final = "high"
#: The longest `user` that OpenAI takes, in characters.
MAX_USER_LENGTH: Final = 64
#: No schema that OpenAI enforces has as many levels.
MAX_SCHEMA_DEPTH: Final = 40


def chat_request(
    request: Mapping[str, Any],
    model: str,
    *,
    strict: bool = False,
    refused: Set[str] = frozenset(),
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the request for `/v1/chat/completions`, and the names of parameters left out.

    `strict`: they are refused. `refused` are parameters of a chat that the model does not take.

    Raises ClientError `invalid_request` whose `param` is the path of what cannot be translated.
    """
    dropped = [name for name, value in request.items() if name not in _KNOWN and value is not None]
    chat: dict[str, Any] = {"model": model}
    turns = _system(request.get("system"), "system") + _turns(request.get("messages"))
    chat["messages"] = LargeList(turns)
    if all(message["role"] == "system" for message in turns):
        raise wrong("messages", "must have a message that is not empty")
    for name, renamed, kinds, kind in _SIMPLE:
        value = request.get(name)
        if value is None:
            continue
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise wrong(name, f"must be {kind}")
        chat[renamed] = value
    if stops := request.get("stop_sequences"):
        if (
            not isinstance(stops, list)
            or len(stops) > MAX_STOPS
            or not all(isinstance(each, str) for each in stops)
        ):
            raise wrong("stop_sequences", f"must be a list of at most {MAX_STOPS} strings")
        chat["stop"] = stops
    stream = request.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise wrong("stream", "must be a boolean")
    if stream:
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True}
    dropped += _tools(request, chat)
    dropped += _metadata(request.get("metadata"), chat)
    dropped += _output(request, chat)
    source = _effort(request, chat)
    for name in sorted(refused & chat.keys()):
        del chat[name]
        dropped.append(source if name == "reasoning_effort" else name)
    if strict and dropped:
        raise ClientError(
            f"The provider of this model does not take `{dropped[0][:100]}`.",
            param=dropped[0][:100],
        )
    return chat, tuple(dropped)


def _system(system: Any, path: str) -> list[Part]:
    if system is None:
        return []
    text = system if is_text(system) else _joined("\n", _texts(system, path))
    return [{"role": "system", "content": text}] if text else []


def _turns(messages: Any) -> list[Part]:
    if not isinstance(messages, list):
        raise wrong("messages", "must be a list")
    found: list[Part] = []
    for number, message in enumerate(messages):
        turn_if_due()  # a step is one message
        path = f"messages[{number}]"
        if not isinstance(message, dict):
            raise wrong(path, "must be an object")
        role, content = message.get("role"), message.get("content")
        if is_text(content):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise wrong(f"{path}.content", "must be a string or a list of blocks")
        for place, block in enumerate(content):
            turn_if_due()
            if not isinstance(block, dict):
                raise wrong(f"{path}.content[{place}]", "must be an object")
        if role == "user":
            found += _user(content, f"{path}.content")
        elif role == "assistant":
            found += _assistant(content, f"{path}.content")
        elif role == "system":
            found += _system(content, f"{path}.content")
        else:
            raise wrong(f"{path}.role", "must be `user` or `assistant`")
    return found


def _user(content: Sequence[Part], path: str) -> list[Part]:
    """Return the results of tools, each a message, and then all else as one."""
    results: list[Part] = []
    parts: list[Part] = []
    for number, block in enumerate(content):
        turn_if_due()
        where = f"{path}[{number}]"
        if block.get("type") != "tool_result":
            parts += _parts(block, where)
            continue
        given = block.get("content")
        if isinstance(given, list):
            made = _blocks(given, f"{where}.content")
        elif given is None or is_text(given):
            made = [_text_part(given)] if given else []
        else:
            raise wrong(f"{where}.content", "must be a string or a list of blocks")
        texts = [part["text"] for part in made if part["type"] == "text"]
        # Only text can stand in a tool's message. Images follow it.
        parts += [part for part in made if part["type"] != "text"]
        results.append(
            {
                "role": "tool",
                "tool_call_id": _word(block, "tool_use_id", where),
                "content": _joined("\n", texts),
            }
        )
    if not parts:
        return results
    alone = len(parts) == 1 and parts[0]["type"] == "text"
    return [*results, {"role": "user", "content": parts[0]["text"] if alone else LargeList(parts)}]


def _assistant(content: Sequence[Part], path: str) -> list[Part]:
    texts: list[Text] = []
    calls: list[Part] = []
    for number, block in enumerate(content):
        turn_if_due()
        where = f"{path}[{number}]"
        kind = block.get("type")
        if kind == "text":
            texts.append(_text(block, "text", where))
        elif kind == "tool_use":
            given = block.get("input")
            if given is None:
                given = {}
            if not isinstance(given, dict):
                raise wrong(f"{where}.input", "must be an object")
            function = {
                "name": _word(block, "name", where),
                "arguments": _arguments(given, f"{where}.input"),
            }
            calls.append(
                {"id": _word(block, "id", where), "type": "function", "function": function}
            )
        elif not (kind in _LEFT_OUT or (isinstance(kind, str) and kind.endswith("_tool_result"))):
            raise _unknown(kind, where)
    text = _joined("", texts)
    if not text and not calls:
        return []
    made: Part = {"role": "assistant", "content": text or None}
    if calls:
        made["tool_calls"] = LargeList(calls)
    return [made]


def _blocks(blocks: Sequence[Any], path: str, kinds: Set[str] = _OF_A_RESULT) -> list[Part]:
    """Return blocks inside another one, which are of some `kinds` only, as parts."""
    found: list[Part] = []
    for number, block in enumerate(blocks):
        turn_if_due()
        where = f"{path}[{number}]"
        if isinstance(block, dict) and block.get("type") not in kinds:
            raise _unknown(block.get("type"), where)
        found += _parts(block, where)
    return found


def _parts(block: Any, path: str) -> list[Part]:
    """Return a block of a user's turn, or of a result, as parts of a chat message."""
    if not isinstance(block, dict):
        raise wrong(path, "must be an object")
    kind = block.get("type")
    if kind == "text":
        text = _text(block, "text", path)
        return [_text_part(text)] if text else []
    if kind == "search_result":
        return [_text_part(text) for text in _texts(block.get("content"), f"{path}.content")]
    if kind not in ("image", "document"):
        raise _unknown(kind, path)
    source, where = block.get("source"), f"{path}.source"
    if not isinstance(source, dict):
        raise wrong(where, "must be an object")
    return _image(source, where) if kind == "image" else _document(block, source, where)


def _image(source: Mapping[str, Any], where: str) -> list[Part]:
    place = source.get("type")
    if place == "base64":
        url = _data_url(source, where)
    elif place == "url":
        url = _word(source, "url", where)
    else:
        raise _unreadable(where)
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: Part, source: Mapping[str, Any], where: str) -> list[Part]:
    place = source.get("type")
    if place == "text":
        return [_text_part(_text(source, "data", where))]
    if place == "content":
        inner = source.get("content")
        if is_text(inner):
            return [_text_part(inner)]
        if isinstance(inner, list):
            return _blocks(inner, f"{where}.content", _OF_A_DOCUMENT)
    if place == "base64":
        title = block.get("title")
        name = title if isinstance(title, str) and title else "document.pdf"
        return [{"type": "file", "file": {"filename": name, "file_data": _data_url(source, where)}}]
    raise _unreadable(where)


def _text_part(text: Text) -> Part:
    return {"type": "text", "text": text}


def _data_url(source: Mapping[str, Any], path: str) -> Text:
    head = f"data:{_word(source, 'media_type', path)};base64,"
    return _joined("", [head, _text(source, "data", path)])


def _arguments(given: dict[str, Any], path: str) -> Text:
    """Return the JSON text of an object as a string."""
    try:
        if not isinstance(given, LargeDict):
            return orjson.dumps(given).decode()
        decoder = codecs.getincrementaldecoder("utf-8")()
        return LongString.of(
            decoder.decode(piece[at : at + AT_ONCE])
            for piece in encoded_in_turns(given)
            for at in range(0, len(piece), AT_ONCE)
        )
    except (TypeError, RecursionError) as error:
        raise wrong(path, "cannot be written as JSON") from error


def _joined(between: str, texts: Sequence[Text]) -> Text:
    """Return the texts as one, which is long if they are together."""
    if len(texts) == 1:
        return texts[0]
    short = [text for text in texts if isinstance(text, str)]
    if len(short) == len(texts) and sum(map(len, short)) <= AT_ONCE:
        return between.join(short)
    return LongString.of(_pieces(between, texts))


def _pieces(between: str, texts: Iterable[Text]) -> Iterator[str]:
    for number, text in enumerate(texts):
        if number and between:
            yield between
        if isinstance(text, LongString):
            yield from text.decoded()
        else:
            yield text


def _texts(blocks: Any, path: str) -> list[Text]:
    if not isinstance(blocks, list):
        raise wrong(path, "must be a string or a list of blocks")
    found = []
    for number, block in enumerate(blocks):
        turn_if_due()
        if not isinstance(block, dict) or block.get("type") != "text":
            raise wrong(f"{path}[{number}]", "must be a block of text")
        found.append(_text(block, "text", f"{path}[{number}]"))
    return [text for text in found if text]


def _tools(request: Mapping[str, Any], chat: dict[str, Any]) -> list[str]:
    """Set the tools and their choice. Returns `tools` if any was left out."""
    tools = request.get("tools")
    if not tools:
        return []
    if not isinstance(tools, list):
        raise wrong("tools", "must be a list")
    made: list[Part] = []
    for number, tool in enumerate(tools):
        turn_if_due()
        if not isinstance(tool, dict):
            raise wrong(f"tools[{number}]", "must be an object")
        if tool.get("type") not in (None, "custom"):
            continue  # it runs at Anthropic's, or has a schema that only its models know
        function: Part = {"name": _word(tool, "name", f"tools[{number}]")}
        for name, renamed, kind, shown in _OF_A_TOOL:
            value = tool.get(name)
            if value is None:
                continue
            if not isinstance(value, kind):
                raise wrong(f"tools[{number}].{name}", f"must be {shown}")
            function[renamed] = value
        made.append({"type": "function", "function": function})
    if made:
        chat["tools"] = LargeList(made)
        _choose(request.get("tool_choice"), chat, {each["function"]["name"] for each in made})
    return ["tools"] if len(made) < len(tools) else []


def _choose(choice: Any, chat: dict[str, Any], names: set[str]) -> None:
    if choice is None:
        return
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "tool":
        name = _word(choice, "name", "tool_choice")
        if name not in names:
            raise wrong("tool_choice.name", "must be one of `tools` that the client runs")
        chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(kind, str) and kind in _TOOL_CHOICES:
        chat["tool_choice"] = _TOOL_CHOICES[kind]
    else:
        raise wrong("tool_choice.type", "must be `auto`, `any`, `tool` or `none`")
    if choice.get("disable_parallel_tool_use") is True:
        chat["parallel_tool_calls"] = False


def _metadata(metadata: Any, chat: dict[str, Any]) -> list[str]:
    """Set the user. Returns `metadata` if it says anything else."""
    if metadata is None:
        return []
    if not isinstance(metadata, dict):
        raise wrong("metadata", "must be an object")
    user = metadata.get("user_id")
    if user is not None and not isinstance(user, str):
        raise wrong("metadata.user_id", "must be a string")
    if user:
        # A longer one is refused. Its hash still names the same user.
        long = len(user) > MAX_USER_LENGTH
        chat["user"] = hashlib.sha256(user.encode()).hexdigest() if long else user
    return ["metadata"] if metadata.keys() - {"user_id"} else []


def _output(request: Mapping[str, Any], chat: dict[str, Any]) -> list[str]:
    """Set the format. Returns members of `output_config` that were left out."""
    config = request.get("output_config")
    if config is None:
        return []
    if not isinstance(config, dict):
        raise wrong("output_config", "must be an object")
    shape = config.get("format")
    if shape is not None:
        schema = shape.get("schema") if isinstance(shape, dict) else None
        if not isinstance(schema, dict) or shape.get("type") != "json_schema":
            raise wrong("output_config.format", "must be of the type `json_schema`, with a schema")
        named = {"name": "response", "schema": schema, "strict": _is_strict(schema)}
        chat["response_format"] = {"type": "json_schema", "json_schema": named}
    return [
        f"output_config.{name}"
        for name, value in config.items()
        if name not in ("effort", "format") and value is not None
    ]


def _is_strict(schema: Any, depth: int = MAX_SCHEMA_DEPTH) -> bool:
    """Whether OpenAI can enforce a schema: objects have no members but those they require.

    It refuses another one that is called strict. As a hint it takes all.
    """
    if not isinstance(schema, dict | list):
        return True
    if not depth:
        return False
    turn_if_due()
    if isinstance(schema, list):
        return all(_is_strict(each, depth - 1) for each in schema)
    properties = schema.get("properties")
    if properties is not None or schema.get("type") == "object":
        required = schema.get("required")
        if (
            not isinstance(properties, dict)
            or not isinstance(required, list)
            or schema.get("additionalProperties") is not False
            or any(name not in required for name in properties)
        ):
            return False
        schema = properties
    return all(_is_strict(each, depth - 1) for each in schema.values())


def _effort(request: Mapping[str, Any], chat: dict[str, Any]) -> str:
    """Set the effort. Returns the parameter that it comes from."""
    config = request.get("output_config")
    effort = config.get("effort") if isinstance(config, dict) else None
    if effort is not None:
        if effort not in _EFFORTS:
            raise wrong("output_config.effort", "must be one of: " + ", ".join(_EFFORTS))
        chat["reasoning_effort"] = effort
        return "output_config.effort"
    thinking = request.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive"):
        chat["reasoning_effort"] = _DEFAULT_EFFORT
    return "thinking"


def _text(holder: Mapping[str, Any], name: str, path: str) -> Text:
    value = holder.get(name)
    if not is_text(value):
        raise wrong(f"{path}.{name}", "must be a string")
    return value


def _word(holder: Mapping[str, Any], name: str, path: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise wrong(f"{path}.{name}", "must be a string")
    return value


def _unknown(kind: Any, path: str) -> ClientError:
    shown = repr(kind)[:100]
    return wrong(path, f"is of the type {shown}, which the provider of this model does not take")


def _unreadable(path: str) -> ClientError:
    return wrong(path, "is of a type that the provider of this model cannot read")
