"""What the style guide forbids, one function a rule: each returns what it found in one module."""

import ast
from collections.abc import Iterator

from tests.tidy.source import Source, imports

RANKS = {
    "protocol": 0,
    "crypto": 0,
    "config": 1,
    "errors": 1,
    "events": 1,
    "failpoints": 0,
    "routing": 2,
    "pricing": 2,
    "upstream": 2,
    "limits": 2,
    "ledger": 2,
    "rails": 3,
    "sessions": 4,
    "modules": 4,
    "telemetry": 4,
    "gateway": 5,
    "discovery": 6,
    "admin": 6,
    "egress": 6,
    "addons": 7,
    "engine": 7,
    "cli": 8,
    "demo": 8,
    "__init__": -1,
    "py": -1,
}

# What values and rules are made of. Whoever adds a name says that it has no clock, no randomness
# and no I/O; `Crypto.Random` and `coincurve`'s makers of keys are why the names are this narrow.
PURE_MODULES = {
    "protocol": (
        "base64",
        "binascii",
        "collections.abc",
        "dataclasses",
        "datetime",
        "decimal",
        "functools",
        "hashlib",
        "hmac",
        "json",
        "mpp_gateway.crypto",
        "mpp_gateway.protocol",
        "re",
        "typing",
    ),
    "crypto": ("Crypto.Hash", "coincurve", "dataclasses", "mpp_gateway.crypto", "re"),
}
CLOCKS = {"now", "today", "utcnow"}
EFFECTS = {"__import__", "breakpoint", "eval", "exec", "input", "open", "print"}


def wrong_ranks(source: Source) -> Iterator[str]:
    """Find imports from a rank that is not below, or beside where that is allowed."""
    rank = RANKS[source.package]
    for line, name in imports(source):
        if not name.startswith("mpp_gateway."):
            continue
        other = name.split(".")[1]
        if other not in RANKS or other == source.package:
            continue
        if RANKS[other] > rank or (RANKS[other] == rank and rank not in (0, 1, 7, 8)):
            yield f"{source.name}:{line} (rank {rank}) imports {name} (rank {RANKS[other]})"


def impurities(source: Source) -> Iterator[str]:
    """Find what values and rules must not reach for: other modules, clocks, the outside."""
    allowed = PURE_MODULES.get(source.package)
    if allowed is None:
        return
    for line, name in imports(source):
        if not any(f"{name}.".startswith(f"{module}.") for module in allowed):
            yield f"{source.name}:{line} imports {name}"
    for node in ast.walk(source.tree):
        is_clock = isinstance(node, ast.Attribute) and node.attr in CLOCKS
        is_effect = isinstance(node, ast.Name) and node.id in EFFECTS
        is_await = isinstance(node, ast.Await | ast.AsyncFunctionDef)
        if is_clock or is_effect or is_await:
            yield f"{source.name}:{node.lineno} {ast.unparse(node)[:60]}"


def is_broad(node: ast.AST) -> bool:
    """Whether a node swallows everything: alone, in a tuple, or by `suppress`."""
    caught: list[ast.expr] = []
    if isinstance(node, ast.ExceptHandler):
        if any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node)):
            return False
        if node.type is None:
            return True
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        caught = node.args
    names = {ast.unparse(each).rpartition(".")[2] for each in caught}
    return not names.isdisjoint({"Exception", "BaseException"})
