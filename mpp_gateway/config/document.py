"""A YAML file as plain values that remember their lines.

Stricter than YAML: duplicate keys, merge keys and tags are refused, and scalars follow the rules of
YAML 1.2 (`no` is a text, `0x20c0` is a text). `${NAME}` in a value reads the environment.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from mpp_gateway.config.syntax import diagnose, forbidden_character
from mpp_gateway.errors import ConfigError, Mistake

MAX_BYTES = 1_048_576
MAX_NODES = 100_000
MAX_DEPTH = 32

type Path = tuple[str | int, ...]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,77})\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.inf\Z|\.nan\Z")
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Stand for `${` and `}` while YAML is read: there a brace ends a plain text in `{a: ${B}}`."""
_WELL_FORMED = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_REFERENCE = re.compile(rf"\$\$\{{|\$\{{|{_OPEN}([^{_CLOSE}]*){_CLOSE}")
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(slots=True)
class Document:
    """What a file says, where, and what was wrong with the saying."""

    file: str
    data: Any = None
    mistakes: list[Mistake] = field(default_factory=list)
    lines: dict[Path, int] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)
    """Scalars as they are written, for messages."""
    from_environment: set[Path] = field(default_factory=set)
    broken: set[Path] = field(default_factory=set)
    """Values that could not be read: nothing more is said of them."""
    failed: set[Path] = field(default_factory=set)
    """Where mistakes are."""

    def line(self, path: Path) -> int:
        """Return the line of a path, or of the nearest mapping around it that was written."""
        return self.lines.get(self.written(path), 1)

    def written(self, path: Path) -> Path:
        """Return the longest beginning of a path that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return path

    def has(self, *path: str | int) -> bool:
        """Tell whether the file has a value there, right or wrong."""
        return path in self.lines

    def is_sound(self, *path: str | int) -> bool:
        """Tell whether nothing is wrong at a path or below: what follows from it is then true."""
        return not any(inner[: len(path)] == path for inner in self.failed | self.broken)

    def add(self, path: Path, message: str, found: str | None = None) -> None:
        """Note a mistake, unless the value there is known to be unreadable."""
        if path not in self.broken:
            self.failed.add(path)
            self.mistakes.append(
                Mistake(self.file, self.line(path), format_path(path), message, found)
            )


def format_path(path: Path) -> str:
    """Return a path as it is written in messages: `services.openai.routes."GET /x".charge`."""
    parts = [str(part) for part in path]
    return ".".join(part if _PLAIN_KEY.match(part) else f'"{part}"' for part in parts)


def read_document(text: str, file: str, environ: Mapping[str, str]) -> Document:
    """Read YAML text; ConfigError when it is no mapping at all, else see `Document.mistakes`."""
    document = Document(file)
    node = _compose(_with_marks(text), file)
    if node is None:
        raise _refusal(file, 1, "the file is empty (start from configs/minimal.yaml)")
    document.lines[()] = 1
    document.data = _Reader(document, environ).read(node, ())
    if not isinstance(document.data, dict):
        raise _refusal(file, 1, "a configuration is a mapping of keys to values")
    return document


def _refusal(file: str, line: int, message: str) -> ConfigError:
    return ConfigError((Mistake(file, line, "", message),))


def _with_marks(text: str) -> str:
    def mark(match: re.Match[str]) -> str:
        return match[0] if match[1] is None else f"{_OPEN}{match[1]}{_CLOSE}"

    return _WELL_FORMED.sub(mark, text)


def _compose(text: str, file: str) -> Any:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise _refusal(file, 1, f"the file is longer than {MAX_BYTES} bytes")
    try:
        _check_shape(text, file)
        return yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        # Not the parser's full message: that quotes the file, secrets and all.
        line, message = diagnose(error, text)
        raise _refusal(file, line, f"not YAML: {message}") from None
    except (yaml.YAMLError, UnicodeEncodeError):
        line, message = forbidden_character(text)
        raise _refusal(file, line, f"not YAML: {message}") from None


def _check_shape(text: str, file: str) -> None:
    """Bound depth and size from the event stream, before anything recurses over the nodes."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
        if depth > MAX_DEPTH:
            raise _refusal(file, line, f"nested deeper than {MAX_DEPTH} levels")
        if nodes > MAX_NODES:
            raise _refusal(file, line, f"more than {MAX_NODES} values")


class _Reader:
    """Turns nodes into values. Aliases are written out, and counted as if they were."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ
        self._nodes = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        """Return the value of a node: dict, tuple, str, int, float, bool or None."""
        self._nodes += 1
        # Ten anchors of ten aliases each: a hundred lines, and ten thousand million values.
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            line = node.start_mark.line + 1
            raise _refusal(self._document.file, line, "aliases that expand to too many values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path)
        return self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        self._refuse_tag(node, path, "tag:yaml.org,2002:map")
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            inner = (*path, key)
            if key in mapping:
                first = self._document.lines[inner]
                line = key_node.start_mark.line + 1
                message = f"this key stands twice; it is on line {first} too"
                mistake = Mistake(self._document.file, line, format_path(inner), message)
                self._document.mistakes.append(mistake)
                continue
            self._document.lines[inner] = key_node.start_mark.line + 1
            mapping[key] = self.read(value_node, inner)
        return mapping

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._document.add(path, "a key is a text, not a list or a mapping")
            return None
        if node.tag == "tag:yaml.org,2002:merge" and not node.style:
            message = "merge keys (<<) are not read; an alias (*name) of a whole value is"
        elif "${" in node.value or _OPEN in node.value:
            message = "the environment is read in values only, not in keys"
        else:
            return str(node.value)
        line = node.start_mark.line + 1
        self._document.mistakes.append(
            Mistake(self._document.file, line, format_path(path), message)
        )
        return None

    def _sequence(self, node: yaml.SequenceNode, path: Path) -> tuple[Any, ...]:
        self._refuse_tag(node, path, "tag:yaml.org,2002:seq")
        items = []
        for index, item in enumerate(node.value):
            inner = (*path, index)
            self._document.lines[inner] = item.start_mark.line + 1
            items.append(self.read(item, inner))
        return tuple(items)

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        self._refuse_tag(node, path, *_PLAIN_TAGS)
        self._document.texts[path] = node.value
        if not node.style and not node.tag.endswith(":str"):
            return _plain_value(node.value)
        return self._expand(node.value, path)

    def _refuse_tag(self, node: yaml.Node, path: Path, *known: str) -> None:
        if node.tag not in known:
            self._document.add(path, "tags (!name) are not read here; quote a text that starts so")
            self._document.broken.add(path)

    def _expand(self, text: str, path: Path) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            self._document.from_environment.add(path)
            return self._look_up(match, path)

        return _REFERENCE.sub(replace, text)

    def _look_up(self, match: re.Match[str], path: Path) -> str:
        name = match[1]
        if name is None:
            message = "an environment variable is written ${NAME}; for the characters write $${"
        elif name not in self._environ:
            message = f"the environment variable {name} is not set; export it before the start"
        else:
            return self._environ[name]
        self._document.add(path, message)
        self._document.broken.add(path)
        return ""


def _plain_value(text: str) -> Any:
    """Return an unquoted scalar by the rules of YAML 1.2, whose numbers are decimal only."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text in {"true", "True", "TRUE", "false", "False", "FALSE"}:
        return text.lower() == "true"
    if _INTEGER.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    return text
