"""A missing component is skipped with its remedy on a desk, and fails in CI."""

import ast
from pathlib import Path

import pytest

from tests.support import components
from tests.support.components import PEERS, ROOT, X402

COMPONENTS = [
    "node", "mppx", "anvil", "pympp", "x402", "@x402/fetch", "openapi-spec-validator", "chromium",
    "postgres", "root",
]  # fmt: skip
SKIPS = {"skip", "skipif", "importorskip", "xfail"}
PLACES = {ROOT / "tests" / "support" / "components.py", Path(__file__)}


@pytest.fixture
def without_anything(tmp_path, monkeypatch):
    for name in ("PEERS", "X402"):
        monkeypatch.setattr(components, name, tmp_path)
    for name in ("PYMPP_PYTHON", "X402_PYTHON", "ANVIL"):
        monkeypatch.setattr(components, name, tmp_path / "program")
    monkeypatch.setattr(components.shutil, "which", lambda _: None)
    monkeypatch.setattr(components, "find_spec", lambda _: None)
    monkeypatch.setattr(components, "postgres", lambda: None)
    monkeypatch.setattr(components.os, "geteuid", lambda: 1000)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_missing_component_skips_and_says_what_to_do(without_anything, monkeypatch, component):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"is missing: (\./scripts/test )?\w+"):
        components.need(component)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_missing_component_fails_in_ci(without_anything, monkeypatch, component):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="is missing"):
        components.need(component)


def test_no_test_is_skipped_in_any_other_way():
    """Each would be one more check that CI may leave out without a word."""
    foreign = [PEERS / "node_modules", PEERS / ".venv", X402 / "node_modules", X402 / ".venv"]
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path not in PLACES and not any(path.is_relative_to(folder) for folder in foreign)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in SKIPS
        and ast.unparse(node).startswith(("pytest.", "unittest."))
    ]
    assert found == []
