"""Who gets JSON and who gets markdown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_gateway.discovery.negotiation import AGENTS, JSON, choose, is_agent

TYPES = (JSON, "text/markdown", "text/plain")
MARKDOWN = "text/markdown"
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("text/markdown", MARKDOWN),
        ("text/plain", "text/plain"),
        ("text/*", MARKDOWN),
        ("TEXT/Markdown; charset=utf-8", MARKDOWN),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("application/json;q=0.5, text/markdown", MARKDOWN),
        ("application/json, text/markdown;q=0.9", JSON),
        ("text/markdown;q=0.2, text/plain;q=0.3", "text/plain"),
        ("application/json;q=0, */*", MARKDOWN),
        ("text/markdown;q=0, */*", JSON),
        ("image/png", JSON),
        ("application/json;q=2, text/plain", "text/plain"),
        ("text/markdown;q=nonsense", JSON),
        ("application/json, text/plain, */*", JSON),
        ("text/markdown;q=0.001", MARKDOWN),
        (",;,=;q=,", JSON),
    ],
)
def test_accept_decides_for_a_client_that_is_no_agent(accept, expected):
    assert choose(TYPES, (accept,) if accept else (), BROWSER) == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", MARKDOWN),
        ("*/*", MARKDOWN),
        ("application/json", JSON),
        ("application/json, */*", JSON),
        ("application/json;q=0.1", JSON),
        ("text/plain", "text/plain"),
        ("application/json;q=0.9, text/markdown;q=0.8", JSON),
        ("application/json;q=0", MARKDOWN),
    ],
)
def test_an_explicit_accept_wins_over_the_user_agent(accept, expected):
    assert choose(TYPES, (accept,) if accept else (), "curl/8.5.0") == expected


def test_several_accept_fields_are_one_list():
    assert choose(TYPES, ("application/json;q=0.1", "text/markdown"), BROWSER) == MARKDOWN


@pytest.mark.parametrize("name", AGENTS)
def test_agents_and_terminals_are_known_in_any_case(name):
    assert is_agent(f"Mozilla/5.0 (compatible; {name.lower()}/1.0; +https://bot.example)")
    assert is_agent(name.upper())


@pytest.mark.parametrize(
    "name", [BROWSER, "", "python-requests/2.32", "libcurl-agent/1.0", "axhttp/2", "gptbots/1"]
)
def test_other_clients_are_not_taken_for_agents(name):
    assert not is_agent(name)


@given(st.lists(st.text(), max_size=3), st.text())
def test_no_field_breaks_the_choice(accept, user_agent):
    assert choose(TYPES, accept, user_agent) in TYPES
