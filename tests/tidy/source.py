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


@cache
def sources() -> tuple[Source, ...]:
    """Every module of the package, in order."""
    return tuple(
        Source(path, text := path.read_text(), ast.parse(text))
        for path in sorted(PACKAGE.rglob("*.py"))
    )


def imports(source: Source) -> list[tuple[int, str]]:
    """Return line and dotted name of everything a module imports."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found
