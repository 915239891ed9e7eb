"""The source tree as the tidy tests see it."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mpp_gateway"


@dataclass(frozen=True)
class Source:
    """One Python file of the project, parsed."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def package(self) -> str:
        """The part of `mpp_gateway` it belongs to: a folder, or the module's own name."""
        parts = self.path.relative_to(PACKAGE).parts
        return parts[0].removesuffix(".py")


def parsed(name: str, text: str) -> Source:
    """Return a module of the package with this path below it and this text."""
    return Source(PACKAGE / name, text, ast.parse(text))


@cache
def sources() -> tuple[Source, ...]:
    """Every module of the package, in order."""
    return tuple(
        parsed(str(path.relative_to(PACKAGE)), path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
    )


def imports(source: Source) -> list[tuple[int, str]]:
    """Return line and full dotted name of everything a module imports."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(source, node)
            found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
    return found


def _origin(source: Source, node: ast.ImportFrom) -> str:
    """Return what is imported from; the dots of a relative import count from the own folder."""
    above: tuple[str, ...] = ()
    if node.level:
        folders = source.path.relative_to(ROOT).parent.parts
        above = folders[: len(folders) - node.level + 1]
    return ".".join((*above, *([node.module] if node.module else [])))
