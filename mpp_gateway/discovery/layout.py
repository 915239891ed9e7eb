"""From route patterns to OpenAPI path templates, of which no two may be alike.

OpenAPI holds `/x/{id}` and `/x/{name}` for one path (version 3.1.0, "Paths Object"), so patterns
that differ in names only share one template. Where a first route has taken a method of a template,
a later `*` is listed one segment deeper: that is what is left for it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mpp_gateway.config.patterns import Pattern, parse_pattern
from mpp_gateway.discovery.catalog import Catalog, Entry

ANY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""What a route without a method is listed for."""
REST = "The rest of the path; it may have slashes."
ONE_MORE = "One more segment of the path."


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path that the caller fills in."""

    name: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path template."""

    id: str
    template: str
    method: str
    shared: tuple[Parameter, ...]
    """The parameters of the template, as the first route that has it describes them."""
    own: tuple[Parameter, ...]
    """Those that this operation describes differently."""
    entry: Entry


@dataclass(frozen=True, slots=True)
class _Template:
    text: str
    parameters: tuple[Parameter, ...]


class _Layout:
    """What has been placed so far."""

    def __init__(self) -> None:
        self._templates: dict[str, _Template] = {}
        self._taken: dict[tuple[str, str], Pattern] = {}
        self._ids: set[str] = set()

    def place(self, entry: Entry, mount: str, method: str) -> Operation | None:
        """Return where a method of a route is listed; None when earlier routes take all of it."""
        pattern = parse_pattern(entry.pattern)
        depth = 0
        while True:
            template = _template(mount, pattern, depth)
            shape = _shape(template)
            earlier = self._taken.get((shape, method))
            if earlier is None:
                break
            if earlier.open_ended or not pattern.open_ended:
                return None
            depth += 1
        self._taken[shape, method] = pattern
        known = self._templates.setdefault(shape, template)
        pairs = zip(known.parameters, template.parameters, strict=True)
        return Operation(
            id=self._id(entry, method),
            template=known.text,
            method=method,
            shared=known.parameters,
            own=tuple(
                Parameter(there.name, here.description)
                for there, here in pairs
                if here.description not in (None, there.description)
            ),
            entry=entry,
        )

    def _id(self, entry: Entry, method: str) -> str:
        words = f"{entry.service} {method.lower()} {entry.pattern.replace('*', 'path')}"
        slug = re.sub(r"[^A-Za-z0-9]+", "_", words).strip("_")
        name, number = slug, 1
        while name in self._ids:
            number += 1
            name = f"{slug}_{number}"
        self._ids.add(name)
        return name


def lay_out(catalog: Catalog) -> tuple[Operation, ...]:
    """Return the operations of all services, in the order of the configuration."""
    return tuple(_operations(catalog))


def _operations(catalog: Catalog) -> Iterator[Operation]:
    layout = _Layout()
    for shop in catalog.shops:
        for entry in shop.entries:
            for method in ANY_METHOD if entry.method is None else (entry.method,):
                operation = layout.place(entry, shop.mount, method)
                if operation is not None:
                    yield operation


def _template(mount: str, pattern: Pattern, depth: int) -> _Template:
    segments: list[str] = []
    parameters: list[Parameter] = []

    def add(name: str, description: str | None = None) -> None:
        while name in pattern.parameters and description is not None:
            name += "_"
        parameters.append(Parameter(name, description))
        segments.append(f"{{{name}}}")

    for segment in pattern.segments:
        if segment.startswith(":"):
            add(segment[1:])
        else:
            segments.append(segment)
    for number in range(depth):
        add(f"segment{number + 1}", ONE_MORE)
    if pattern.open_ended:
        add("path", REST)
    return _Template(mount + "".join(f"/{segment}" for segment in segments), tuple(parameters))


def _shape(template: _Template) -> str:
    return re.sub(r"\{[^}]*\}", "{}", template.text)
