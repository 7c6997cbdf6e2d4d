"""YAML text -> a tree that knows where each value was written. Owns the syntax; knows no schema.

Scalars follow YAML 1.2's core schema: `1e-4` is a number, `on`, `off`, `yes`, `no` are strings. Tags, merge keys,
complex keys and several documents are refused; aliases are shared, never copied, and their expansion is bounded.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from data_prep.contract.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000

Scalar = str | int | float | bool | None

SCALARS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    ("int", re.compile(r"[-+]?[0-9]{1,40}\Z")),
    ("octal", re.compile(r"0o[0-7]{1,40}\Z")),
    ("hexadecimal", re.compile(r"0x[0-9a-fA-F]{1,40}\Z")),
    ("float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")),
    ("infinity", re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z")),
    ("nan", re.compile(r"\.(?:nan|NaN|NAN)\Z")),
)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something was written: a file and line (from 1), or an override (line 0)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong, at its place."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the place of its key (in a map) or of itself (in a list)."""

    value: "Scalar | dict[str, Node] | list[Node]"
    place: Place
    size: int = field(default=1, compare=False)
    """Nodes below and including this one, aliases expanded."""


def plain(node: Node) -> object:
    """The tree without its places: what `json.dumps` takes."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar by YAML 1.2's core schema."""
    match next((name for name, pattern in SCALARS if pattern.match(text)), "text"):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text)
        case "octal":
            return int(text[2:], 8)
        case "hexadecimal":
            return int(text[2:], 16)
        case "float":
            return float(text)
        case "infinity" | "nan":
            return float(text.replace(".", ""))
        case _:
            return text


def parse(text: str, source: str, *, numbered: bool = True) -> tuple[Node, list[Problem]]:
    """The tree of one YAML document and what is wrong with its keys; an empty document gives null.

    `numbered=False` leaves line numbers out of places (an override has none). Raises ConfigError on what leaves no
    tree to go on with: bad syntax, tags, too much of anything.
    """
    builder = _Builder(source, numbered=numbered)
    try:
        return builder.document(text), builder.problems
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark and numbered else 0
        raise ConfigError(f"{Place(source, line)}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from error


class _Builder:
    """Builds one document's tree from the parser's events."""

    def __init__(self, source: str, *, numbered: bool) -> None:
        self.source = source
        self.numbered = numbered
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node] = {}
        self.num_nodes = 0

    def document(self, text: str) -> Node:
        events = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        root = Node(None, self.place(None))
        seen = False
        for event in events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            if seen:
                raise self.refusal(event, "a second document begins; a config file holds one")
            seen = True
            root = self.node(next(events), events, depth=0)
        return root

    def node(self, event: yaml.Event, events: Iterator[yaml.Event], *, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if depth > MAX_DEPTH:
            raise self.refusal(event, f"nested deeper than {MAX_DEPTH} levels")
        if event.tag is not None:
            raise self.refusal(event, "a YAML tag (`!…`); write the plain value, its type follows from the schema")
        self.count(event, 1)
        node = self.scalar(event) if isinstance(event, yaml.ScalarEvent) else self.collection(event, events, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def alias(self, event: yaml.AliasEvent) -> Node:
        target = self.anchors.get(str(event.anchor))
        if target is None:
            raise self.refusal(event, f"alias `*{event.anchor}` names no finished anchor above it")
        self.count(event, target.size)
        return Node(target.value, self.place(event), target.size)

    def scalar(self, event: yaml.ScalarEvent) -> Node:
        if any("\ud800" <= character <= "\udfff" for character in event.value):
            raise self.refusal(event, "an escaped surrogate; write the character itself")
        is_quoted = bool(event.style)
        return Node(event.value if is_quoted else resolve(event.value), self.place(event))

    def collection(self, event: yaml.CollectionStartEvent, events: Iterator[yaml.Event], depth: int) -> Node:
        before = self.num_nodes
        value: dict[str, Node] | list[Node] = (
            self.entries(events, depth) if isinstance(event, yaml.MappingStartEvent) else self.items(events, depth)
        )
        return Node(value, self.place(event), self.num_nodes - before + 1)

    def items(self, events: Iterator[yaml.Event], depth: int) -> list[Node]:
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self.node(event, events, depth=depth + 1))
        return items

    def entries(self, events: Iterator[yaml.Event], depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key, place = self.key(event), self.place(event)
            child = self.node(next(events), events, depth=depth + 1)
            if key in entries:
                first = entries[key].place.line
                self.problems.append(Problem(place, f"key `{key}` is given twice in one map, first in line {first}"))
            else:
                entries[key] = Node(child.value, place, child.size)
        return entries

    def key(self, event: yaml.Event) -> str:
        """The key's text as written: keys are names, never numbers or booleans."""
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            raise self.refusal(event, "a key that is not plain text")
        if event.value == "<<" and event.style is None:
            raise self.refusal(event, "the merge key `<<`; start from another file with `base:` instead")
        return event.value

    def count(self, event: yaml.Event, num_nodes: int) -> None:
        self.num_nodes += num_nodes
        if self.num_nodes > MAX_NODES:
            raise self.refusal(event, f"more than {MAX_NODES} values once aliases are expanded")

    def place(self, event: yaml.Event | None) -> Place:
        if not self.numbered or event is None or event.start_mark is None:
            return Place(self.source)
        return Place(self.source, event.start_mark.line + 1)

    def refusal(self, event: yaml.Event, found: str) -> ConfigError:
        return ConfigError(f"{self.place(event)}: not allowed in a config: {found}")
