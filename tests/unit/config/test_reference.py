"""The reference page is what the models say."""

from pathlib import Path

import pytest

from mpp_gateway.config.methods import KINDS
from mpp_gateway.config.reference import page
from mpp_gateway.config.settings import RootSettings, RouteSettings, ServiceSettings

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "config.md"


def test_the_page_is_fresh():
    """Else: python -m mpp_gateway.config.reference > docs/reference/config.md"""
    assert page() == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("model", [RootSettings, ServiceSettings, RouteSettings, *KINDS.values()])
def test_every_key_has_a_description_and_a_heading(model):
    text = page()

    for name, field in model.model_fields.items():
        assert field.description, name
        assert f"{name}`\n\n{field.description}\n" in text


def test_lines_of_prose_have_no_python_in_them():
    assert "class" not in page().replace("classify", "").lower().split()
    assert "NoneType" not in page()
