"""A request target is refused, or kept byte for byte."""

import pytest

from mpp_gateway.errors import BadTarget
from mpp_gateway.routing import Target, parse_target
from mpp_gateway.routing.target import MAX_TARGET_LENGTH


def refused(raw, method="GET"):
    with pytest.raises(BadTarget) as caught:
        parse_target(method, raw)
    return caught.value.detail


@pytest.mark.parametrize(
    ("raw", "path", "query"),
    [
        ("/", "/", None),
        ("/a", "/a", None),
        ("/a?b=c", "/a", "b=c"),
        ("/a?", "/a", ""),
        ("/a?b?c", "/a", "b?c"),
        ("/?/../x", "/", "/../x"),
        ("/a?u=//x", "/a", "u=//x"),
    ],
)
def test_the_query_starts_at_the_first_question_mark(raw, path, query):
    assert Target(path, query) == parse_target("GET", raw)


@pytest.mark.parametrize(
    "path",
    [
        "/a//b",
        "/a/",
        "/a//",
        "/a;v=1",
        "/a;v=1/b",
        "/caf%C3%A9",
        "/%63hat",
        "/a%20b",
        "/a%2fb",
        "/a%2Fb",
        "/a%252fb",
        "/%252e%252e/a",
        "/%252e",
        "/...",
        "/.a",
        "/a.",
        "/..a",
        "/.well-known/x",
        "/a..b",
        "/%2e%2e%2e",
        "/a%2e",
        "/%2ea",
        "/a%0d%0ab",
        "/a:b@c",
        "/~!$&'()*+,;=",
        "/a%3bb",
        '/"<>[]^`{|}',
    ],
)
def test_a_path_is_kept_byte_for_byte(path):
    assert Target(path, None) == parse_target("GET", path)


@pytest.mark.parametrize(
    "query", ["a=..&b=/../", "a=%2e%2e/%5c", "a=b%2Fc", "%41=%61", "a[]=1", "&&=="]
)
def test_a_query_is_kept_byte_for_byte(query):
    assert query == parse_target("GET", f"/a?{query}").query


@pytest.mark.parametrize(
    "raw",
    ["", "a", "a/b", "?a", "http://h/x", "https://h", "h:443", "HTTP://h/", "*", "%2fa", " /a"],
)
def test_a_target_that_does_not_start_with_a_slash_is_refused(raw):
    assert "start with '/'" in refused(raw)


def test_an_asterisk_is_for_options_alone():
    assert Target("*", None) == parse_target("OPTIONS", "*")
    assert "start with '/'" in refused("*", "options")


@pytest.mark.parametrize("raw", ["//evil", "//evil/x", "//", "///a", "//api/x"])
def test_a_target_that_resolves_to_another_host_is_refused(raw):
    assert "must not start with '//'" in refused(raw)


@pytest.mark.parametrize(
    "path",
    [
        "/.",
        "/..",
        "/./a",
        "/../a",
        "/a/.",
        "/a/..",
        "/a/./b",
        "/a/../b",
        "/%2e",
        "/%2E/a",
        "/%2e%2e/a",
        "/%2E%2e/a",
        "/.%2e/a",
        "/%2e./a",
        "/a/%2e%2E",
        "/a//../b",
        "/a/..;x=1/b",
        "/a/..;/b",
        "/a/.;/b",
        "/a/%2e%2e;v/b",
        "/a/..%3bx/b",
    ],
)
def test_a_dot_segment_is_refused_in_every_spelling(path):
    assert "'..' segments" in refused(path)


@pytest.mark.parametrize(
    "path", ["/a/..%2fb", "/a/%2e%2e%2Fb", "/a%2f..%2fb", "/a%2f%2e%2e", "/a%2f.%2fb"]
)
def test_a_dot_segment_behind_an_encoded_slash_is_refused(path):
    assert "'..' segments" in refused(path)


@pytest.mark.parametrize("raw", ["/a\\b", "/a?b\\c", "\\/a", "/a%5cb", "/a%5Cb", "/..%5c..%5cb"])
def test_a_backslash_is_refused(raw):
    assert refused(raw)


@pytest.mark.parametrize("code", [*range(0x21), 0x7F, 0x80, 0xA0, 0xFF, 0x2028, 0xFF0F, 0xDC80])
@pytest.mark.parametrize("form", ["/a{}b", "/{}", "/a?{}", "/a{}"])
def test_a_character_that_is_not_visible_ascii_is_refused(code, form):
    assert "visible ASCII" in refused(form.format(chr(code)))


@pytest.mark.parametrize(
    "raw", ["/%", "/%a", "/%zz", "/a%2", "/a%g0", "/a?b=%", "/%%41", "/%u0041", "/% 41"]
)
def test_a_broken_escape_is_refused(raw):
    assert refused(raw)


@pytest.mark.parametrize("raw", ["/a#b", "/#", "/a?b#c"])
def test_a_fragment_is_refused(raw):
    assert "fragment" in refused(raw)


@pytest.mark.parametrize("raw", ["/a%00", "/%00", "/a?b=%00"])
def test_a_nul_is_refused(raw):
    assert "NUL" in refused(raw)


def test_a_target_is_bounded():
    longest = "/" + "a" * (MAX_TARGET_LENGTH - 1)

    assert longest == parse_target("GET", longest).path
    assert "longer than" in refused(longest + "a")
