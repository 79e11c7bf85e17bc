"""YAML of an operator → plain values: strict, and bounded in what it may unfold to.

YAML 1.2's JSON types, in YAML 1.1's spelling (`on` is true), except that a date stays text. What
two readers may read in two ways is refused: a name that is there twice, a tag, a name that is no
text.
"""

import math
import re
from typing import Any, Final

import yaml

MAX_BYTES: Final = 1024 * 1024
#: Uses of an anchor in the whole text; members of one mapping; values after all are unfolded.
MAX_ALIASES: Final = 100
MAX_MEMBERS: Final = 5000
MAX_VALUES: Final = 50_000
MAX_DEPTH: Final = 24

_QUOTED: Final = re.compile(r"'[^']{2,}'?|\"[^\"]{2,}\"?", re.DOTALL)


def parse(text: bytes) -> Any:
    """Return the one document of `text`: dictionaries with text for names, lists, plain values.

    Raises ValueError, whose message has the line and never a value of the text.
    """
    try:
        loader = _Loader(text.decode())
        try:
            found = loader.get_single_data()
        finally:
            loader.dispose()
        return _Copy().of(found, 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        # What YAML's parser quotes may be a piece of a secret.
        problem = _QUOTED.sub("…", str(error.problem or "it cannot be read"))
        raise ValueError(f"{where}{problem}") from None
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise ValueError("it is not printable text in UTF-8") from None
    except RecursionError:
        raise ValueError(f"it is deeper than {MAX_DEPTH} levels") from None
    except yaml.YAMLError:
        raise ValueError("it cannot be read as YAML") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which makes no objects, with bounds and without duplicate names."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                self._refuse(f"more than {MAX_ALIASES} aliases", self.peek_event())
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: Any) -> None:
        """Unfold `<<`. Called for what is merged too, so the bound holds at every level."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_MEMBERS:
            self._refuse(f"more than {MAX_MEMBERS} members", node)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            # As they are written: a member beside `<<` may replace a merged one.
            for name, _ in node.value if not getattr(node, "read", False) else ():
                if name.tag == "tag:yaml.org,2002:merge":
                    continue
                if name.tag != "tag:yaml.org,2002:str":
                    self._refuse("a name is not text; put it in quotes", name)
                if name.value in seen:
                    self._refuse("a name is there twice", name)
                seen.add(name.value)
            node.read = True  # merged members come in next
        return super().construct_mapping(node, deep)

    def _refuse(self, problem: str, place: Any) -> None:
        raise yaml.constructor.ConstructorError(None, None, problem, place.start_mark)

    def construct_number(self, node: Any) -> Any:
        """Read a number. One that is no number of JSON is refused."""
        try:
            read = super().construct_yaml_int if node.tag.endswith(":int") else None
            value = (read or super().construct_yaml_float)(node)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self._refuse("a number that cannot be used", node)
        return value

    def construct_unknown(self, node: Any) -> Any:
        self._refuse("a tag or type that is not allowed", node)


# `2024-10-21` is a version of an API, and not a date.
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    f"tag:yaml.org,2002:{kind}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"]
    for kind in ("null", "bool", "str", "seq", "map")
} | {
    "tag:yaml.org,2002:int": _Loader.construct_number,
    "tag:yaml.org,2002:float": _Loader.construct_number,
    None: _Loader.construct_unknown,
}


class _Copy:
    """Unfolds aliases into values of their own, as long as there are not too many."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def of(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it unfolds to more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"it is deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            return {name: self.of(each, depth + 1) for name, each in value.items()}
        if isinstance(value, list):
            return [self.of(each, depth + 1) for each in value]
        return value
