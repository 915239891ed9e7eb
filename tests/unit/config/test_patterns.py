"""The language of route keys."""

import pytest

from mpp_gateway.config.patterns import parse_pattern, parse_route_key


@pytest.mark.parametrize(
    "text",
    [
        "/",
        "/a",
        "/a/",
        "/a//b",
        "/:id",
        "/a/:id/b",
        "/a/*",
        "/*",
        "/v1/models/x:generate",
        "/a;v=1",
        "/caf%C3%A9",
        "/a%2fb",
        "/a/..b",
        "/@me",
        "/a(b)",
    ],
)
def test_a_pattern_is_read(text):
    parse_pattern(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "starts with '/'"),
        ("", "starts with '/'"),
        ("*", "starts with '/'"),
        ("//a", "does not start with '//'"),
        ("/a*", "whole last segment"),
        ("/*/a", "whole last segment"),
        ("/a/**", "whole last segment"),
        ("/:", "parameter"),
        ("/:1", "parameter"),
        ("/:a-b", "parameter"),
        ("/{id}", "written ':id'"),
        ("/a?b=1", "no query"),
        ("/a#b", "no fragment"),
        ("/a b", "URL characters"),
        ("/caf\u00e9", "URL characters"),
        ("/%zz", "URL characters"),
        ("/a\\b", "URL characters"),
        ("/a\n", "URL characters"),
        ("/./a", "'..'"),
        ("/a/..", "'..'"),
        ("/%2e%2E/a", "'..'"),
        ("/:a/:a", "different name"),
        ("/" + "a" * 3000, "at most"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(text, expected):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_pattern(text)

    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("key", "method", "pattern"),
    [("GET /x", "GET", "/x"), ("/x", None, "/x"), ("PROPFIND /", "PROPFIND", "/")],
)
def test_a_key_is_a_method_and_a_pattern(key, method, pattern):
    assert (method, pattern) == parse_route_key(key)[:2]


@pytest.mark.parametrize(
    "key",
    ["get /x", "Get /x", " /x", "GET  /x", "GET /x ", "GET", "GET\t/x", "", "GET,POST /x", "* /x"],
)
def test_a_key_of_another_form_is_refused(key):
    with pytest.raises(ValueError, match=r"."):
        parse_route_key(key)


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT"])
def test_a_method_that_would_echo_the_secret_or_open_a_tunnel_is_refused(method):
    with pytest.raises(ValueError, match="never forwarded"):
        parse_route_key(f"{method} /x")


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("/a", "/a"),
        ("/:x", "/a"),
        ("/:x", "/:y"),
        ("/*", "/a"),
        ("/*", "/"),
        ("/*", "/*"),
        ("/a/*", "/a/"),
        ("/a/*", "/a/b/*"),
        ("/a/:x/*", "/a/b/c/d"),
        ("/*", "/:x"),
    ],
)
def test_a_pattern_covers_what_it_matches_wholly(wide, narrow):
    assert parse_pattern(wide).covers(parse_pattern(narrow))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/a", "/b"),
        ("/a", "/:x"),
        ("/:x", "/"),
        ("/:x", "/a/"),
        ("/a/*", "/a"),
        ("/:x", "/*"),
        ("/a/*", "/:x/b"),
        ("/a/:x/*", "/a/*"),
        ("/:x", "/a/b"),
        ("/A", "/a"),
    ],
)
def test_a_pattern_does_not_cover_what_it_may_miss(one, other):
    assert not parse_pattern(one).covers(parse_pattern(other))
