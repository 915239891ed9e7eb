"""Links of the pages lead somewhere, and files that are named exist."""

import re

import pytest

from tests.docs.pages import PAGES, ROOT, links, spans

_FILE = re.compile(r"(?:\.?[\w-]+/)+[\w.-]+\.(?:py|md|yaml|toml|lock|sh)|(?:\.?[\w-]+/)+")
_MADE_LATER = ("../", "/", "http")
BASES = (ROOT, ROOT / "mpp_gateway")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target.read_text()), link


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page):
    named = [span for span in spans(page) if _FILE.fullmatch(span)]

    missing = [
        name
        for name in named
        if not name.startswith(_MADE_LATER)
        and not any((base / name).exists() for base in (*BASES, page.parent))
    ]
    assert not missing


def test_every_page_is_reached_from_the_readme():
    reached, open_pages = set(), [ROOT / "README.md"]
    while open_pages:
        page = open_pages.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            open_pages += sorted(target.glob("*.md")) if target.is_dir() else [target]

    assert sorted(set(PAGES) - reached) == []
