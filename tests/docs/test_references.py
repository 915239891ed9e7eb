"""The generated pages are fresh, and what the code has is in them."""

import importlib
import pkgutil
import re

import pytest

import mpp_gateway
from mpp_gateway.addons.host import GATEWAY_OPTIONS, OPTIONS
from mpp_gateway.cli import reference
from mpp_gateway.cli.main import parser
from mpp_gateway.config.methods import KINDS
from mpp_gateway.config.settings import RootSettings, RouteSettings, ServiceSettings
from mpp_gateway.ledger.states import State
from tests.docs.pages import ROOT, blocks

REFERENCE = ROOT / "docs" / "reference"
SOURCES = "\n".join(
    path.read_text() for path in (ROOT / "mpp_gateway").rglob("*.py") if path.name != "reference.py"
)


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["problems", "cli", "options"])
def test_a_generated_page_is_fresh(name):
    """Else: python -m mpp_gateway.cli.reference NAME > docs/reference/NAME.md"""
    assert reference.PAGES[name]() == page(name)


def test_the_diagram_of_states_is_fresh_and_every_state_is_explained():
    """Else: python -m mpp_gateway.cli.reference states"""
    money = ROOT / "docs" / "concepts" / "money.md"
    (diagram,) = blocks(money, "mermaid")

    assert diagram.text == reference.states_diagram()
    for state in State:
        assert f"\n| `{state}` | " in money.read_text()


def test_every_problem_has_a_heading_a_status_and_a_remedy():
    for module in pkgutil.walk_packages(mpp_gateway.__path__, "mpp_gateway."):
        if not module.name.startswith("mpp_gateway.demo"):
            importlib.import_module(module.name)
    classes = reference.problem_classes()
    text = page("problems")

    assert {leaf.slug for leaf in classes} == set(reference.REMEDIES)
    for leaf in classes:
        under = text[: text.index(f"### `{leaf.slug}`\n")]
        assert re.findall(r"^## (\d+)$", under, re.MULTILINE)[-1] == str(leaf.status)
        assert leaf.__doc__
    unused = {leaf.slug for leaf in classes if f"{leaf.__name__}(" not in _without_classes()}
    told = {slug for slug, text in reference.REMEDIES.items() if "answers this yet" in text}
    assert unused == told


def _without_classes() -> str:
    return re.sub(r"^class \w+\(.*$", "", SOURCES, flags=re.MULTILINE)


def test_every_command_has_a_heading():
    text = page("cli")

    for verb in reference.verbs(parser()):
        assert f"\n## `mpp-gateway {verb}`\n" in text


def test_every_option_has_a_row():
    text = page("options")

    for name, (default, meaning) in GATEWAY_OPTIONS.items():
        assert meaning
        assert f"\n| `{name}` | {f'`{default}`' if default else ''} | {meaning} |" in text
    for name in OPTIONS:
        assert f"\n| `{name}` | `" in text


def test_every_event_has_a_row_and_is_emitted_somewhere():
    text = page("options")

    assert len(reference.event_classes()) > 10
    for kind in reference.event_classes():
        assert f"\n| `{kind.__name__}` |" in text
        assert re.search(rf"events\.{kind.__name__}\b", SOURCES) is not None, kind


@pytest.mark.parametrize("model", [RootSettings, ServiceSettings, RouteSettings, *KINDS.values()])
def test_every_key_has_a_heading(model):
    text = page("config")

    for name in model.model_fields:
        assert re.search(rf"^### `(?:[\w.<>\[\]]+\.)?{name}`$", text, re.MULTILINE), name
