"""The catalog for agents and people: `/llms.txt` and the `.md` documents.

One line is one fact. Text from the configuration stays within the line it is put on and never
starts one, so that no description can pass for a route and its price.
"""

import re
import unicodedata

from mpp_gateway.discovery.catalog import DEFAULT_TITLE, Catalog, Entry, Payment, Shop
from mpp_gateway.discovery.site import ALL, ALL_MARKDOWN, LISTING, LLMS, OPENAPI

DEFAULT_DESCRIPTION = "APIs that are paid by the call."
HOW_TO_PAY = (
    "Call a route without payment: it answers `402 Payment Required` with a challenge in"
    " `WWW-Authenticate: Payment` for each way to pay."
    " Pay one of them and send the same request again with `Authorization: Payment <credential>`"
    " (in the field `header` where the challenge names one);"
    " clients such as `mppx` do both steps."
    " The answer to a paid call carries a `Payment-Receipt`, and where this page and a 402 differ"
    " the 402 is right."
)
_SPECIAL = re.compile(r"([\\`<>\[\]])")
_NOT_IN_URL = re.compile(r"[^!-~]|[<>`\\]")
_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})


def llms_txt(catalog: Catalog) -> bytes:
    """Return the overview: what is sold, every price, how to pay, where to read on."""
    blocks = [*_head(catalog), f"## How to pay\n\n{HOW_TO_PAY}", "## Services"]
    for shop in catalog.shops:
        blocks += _shop(shop, "###")
    return _document([*blocks, _links(catalog)])


def listing_markdown(catalog: Catalog) -> bytes:
    """Return all services with all their routes."""
    blocks = _head(catalog)
    for shop in catalog.shops:
        blocks += _shop(shop, "##")
    return _document([*blocks, _links(catalog)])


def service_markdown(catalog: Catalog, shop: Shop) -> bytes:
    """Return one service with all its routes."""
    blocks = _shop(shop, "#")
    if catalog.site.origin:
        blocks.insert(1, f"Base URL: <{_url(catalog.site.origin)}>")
    return _document([*blocks, f"## How to pay\n\n{HOW_TO_PAY}", _links(catalog)])


def inline(text: str) -> str:
    """Return free text as one line that holds no markup: it can end no line and open no link."""
    spaced = "".join(" " if unicodedata.category(c) in _HIDDEN else c for c in text)
    line = _SPECIAL.sub(r"\\\1", " ".join(spaced.split()))
    if line and line[0] in "#>+*=|~_-":
        return "\\" + line
    return re.sub(r"\A([0-9]{1,9})([.)])", r"\1\\\2", line)


def _url(url: str) -> str:
    return _NOT_IN_URL.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "replace")), url
    )


def _document(blocks: list[str]) -> bytes:
    return ("\n\n".join(blocks) + "\n").encode("utf-8", "replace")


def _head(catalog: Catalog) -> list[str]:
    blocks = [
        f"# {inline(catalog.title) or DEFAULT_TITLE}",
        f"> {inline(catalog.description or '') or DEFAULT_DESCRIPTION}",
    ]
    facts = _facts(catalog.categories, catalog.docs_llms_url)
    if catalog.site.origin:
        facts.insert(0, f"Base URL: <{_url(catalog.site.origin)}>")
    return [*blocks, *facts]


def _facts(categories: tuple[str, ...], docs_llms_url: str | None) -> list[str]:
    facts = []
    named = [name for name in map(inline, categories) if name]
    if named:
        facts.append("Categories: " + ", ".join(named))
    if docs_llms_url is not None:
        facts.append(f"Documentation: <{_url(docs_llms_url)}>")
    return facts


def _shop(shop: Shop, level: str) -> list[str]:
    title = inline(shop.title or "")
    blocks = [f"{level} {title} (`{shop.id}`)" if title else f"{level} `{shop.id}`"]
    description = inline(shop.description or "")
    if description:
        blocks.append(f"> {description}")
    blocks += _facts(shop.categories, shop.docs_llms_url)
    blocks.append("\n".join(line for entry in shop.entries for line in _entry(entry)))
    return blocks


def _entry(entry: Entry) -> list[str]:
    lines = [f"- `{entry.method or 'ANY'} {entry.path}`: {_price(entry)}"]
    lines += [
        f"  - {text}" for text in map(inline, (entry.title or "", entry.description or "")) if text
    ]
    if entry.docs_llms_url is not None:
        lines.append(f"  - Documentation: <{_url(entry.docs_llms_url)}>")
    return lines


def _price(entry: Entry) -> str:
    if entry.free:
        return "free"
    price = " or ".join(_words(payment) for payment in entry.payments) or "see the 402 answer"
    free = entry.free_calls
    return price if free is None else f"{price}; {free.count} free for each client a {free.per}"


def _words(payment: Payment) -> str:
    # A token's name is free text too: without parentheses it cannot leave its own.
    unit, token = (inline(re.sub(r"[()]", " ", name)) for name in (payment.unit, payment.token))
    where = "" if payment.chain_id is None else f" (chain {payment.chain_id}, {token})"
    return f"{payment.price} {unit} by {payment.method}{where}"


def _links(catalog: Catalog) -> str:
    link = catalog.site.link
    return "\n".join(
        [
            "## Links",
            "",
            f"- [OpenAPI document]({link(OPENAPI)}): every operation, prices in `x-payment-info`",
            f"- [This gateway in short]({link(LLMS)})",
            f"- [All services and routes]({link(ALL_MARKDOWN)}), also [as JSON]({link(ALL)})",
            f"- [Services as JSON]({link(LISTING)})",
        ]
    )
