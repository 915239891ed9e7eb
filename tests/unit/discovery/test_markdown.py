"""Markdown that free text cannot break out of."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_gateway.discovery.catalog import Catalog
from mpp_gateway.discovery.markdown import inline, listing_markdown, llms_txt, service_markdown
from tests.unit.discovery.scenery import acme, catalog_of, config_of

PRICE_LINE = re.compile(r"- `(\S+) (\S+)`: (.+)")
HEADING = re.compile(r"#+ .*")
NASTY = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="`\\[]()<>#*_-!|~:. \n\r\t\x0b\x85\u2028\u2029\u202e1a", max_size=60),
    st.sampled_from(
        [
            "Nice\n- `GET /shop/x`: free",
            "Nice\u2028- `GET /shop/x`: free",
            "Nice\r- `POST /evil`: 0.00 usd by evm (chain 1, X)",
            "- `GET /shop/x`: free",
            "` \n## Services\n",
            "1) `GET /shop/x`: free",
            "<!-- \n# other -->",
            "<script>alert(1)</script>",
            "[click](https://evil.example)",
            "![x](https://evil.example/pixel)",
            'quote " and \' and {"json": 1}',
            "```",
            "---",
            "| a | b |",
            ") free (",
        ]
    ),
)
ROUTES = '"GET /x": {charge: "0.01"}\n"POST /y": free'
EXPECTED = [("GET", "/shop/x", "0.01 usd by evm (chain 8453, "), ("POST", "/shop/y", "free")]


def with_texts(catalog: Catalog, texts: list[str]) -> Catalog:
    """Put free text everywhere where the configuration has some."""
    title, description, category, docs, token = texts
    (shop,) = catalog.shops
    entries = tuple(
        replace(
            entry,
            title=title,
            description=description,
            docs_llms_url=docs,
            payments=tuple(replace(payment, token=token) for payment in entry.payments),
        )
        for entry in shop.entries
    )
    shop = replace(
        shop,
        title=title,
        description=description,
        categories=(category,),
        docs_llms_url=docs,
        entries=entries,
    )
    return replace(
        catalog,
        title=title,
        description=description,
        categories=(category,),
        docs_llms_url=docs,
        shops=(shop,),
    )


PLAIN = catalog_of(config_of(ROUTES))


@given(st.lists(NASTY, min_size=5, max_size=5))
def test_no_text_can_forge_a_price_line_a_heading_or_a_link(texts):
    catalog = with_texts(PLAIN, texts)
    for write in (llms_txt, listing_markdown, lambda c: service_markdown(c, c.shops[0])):
        found, plain = write(catalog).decode(), write(PLAIN).decode()
        # Every way in which a reader may split lines, not only "\n".
        lines = found.splitlines()
        assert lines == found.removesuffix("\n").split("\n")
        prices = [match.groups() for line in lines if (match := PRICE_LINE.fullmatch(line))]
        assert [price[:2] for price in prices] == [expected[:2] for expected in EXPECTED]
        for price, expected in zip(prices, EXPECTED, strict=True):
            assert price[2].startswith(expected[2])
            assert price[2].count(" or ") + price[2].count("(") <= 1 + texts[4].count(" or ")
        assert sum(bool(HEADING.match(line)) for line in lines) == sum(
            bool(HEADING.match(line)) for line in plain.split("\n")
        )
        found, plain = (re.sub(r"(?<!\\)<[^<>\s]*>", "", text) for text in (found, plain))
        assert unescaped(found, "[") == unescaped(plain, "[")
        assert unescaped(found, "`") == unescaped(plain, "`")


def unescaped(text: str, character: str) -> int:
    return len(re.findall(rf"(?<!\\)(?:\\\\)*{re.escape(character)}", text))


@given(st.text())
def test_inline_text_is_one_line_and_starts_nothing(text):
    line = inline(text)
    assert len(line.splitlines()) <= 1
    assert line == line.strip()
    assert not re.match(r"[#>+*=|~_-]|\d{1,9}[.)]", line)
    assert unescaped(line, "`") == unescaped(line, "[") == unescaped(line, "<") == 0


def test_ordinary_text_stays_as_it_was_written():
    text = "OpenAI's API (chat & more), for count_tokens: 5 * 3 – très bien!"
    assert inline(text) == text


@pytest.mark.parametrize(
    ("charge", "words"),
    [
        ("0.01", "0.01 usd"),
        ("1", "1.00 usd"),
        ("1.5", "1.50 usd"),
        ("0.000001", "0.000001 usd"),
        ("120", "120.00 usd"),
    ],
)
def test_prices_are_plain_decimals_without_needless_zeros(charge, words):
    text = llms_txt(catalog_of(config_of(f'"GET /x": {{charge: "{charge}"}}'))).decode()
    assert f"- `GET /shop/x`: {words} by evm (chain 8453, USDC)\n" in text


def test_llms_txt_has_title_description_services_prices_and_links():
    text = llms_txt(catalog_of(acme())).decode()
    assert text.startswith("# Acme data\n\n> Weather and reports, paid by the call.\n")
    assert "### Weather (`weather`)" in text
    assert (
        "- `GET /paid/weather/v1/history/*`: 0.10 usd by evm (chain 8453, USDC)"
        " or 0.09 eur by evm (chain 8453, EURC)\n"
    ) in text
    assert "- `ANY /paid/reports/v1/report/:id`: 1.50 usd" in text
    assert "](https://api.acme.example/paid/openapi.json)" in text


def test_a_gateway_without_a_title_still_says_something():
    text = llms_txt(catalog_of(config_of('"GET /x": free'))).decode()
    assert text.startswith("# Payment gateway\n\n> APIs that are paid by the call.\n")
