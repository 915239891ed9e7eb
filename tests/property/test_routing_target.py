"""Whatever is sent as a request target is refused with our own error, or kept as it is."""

from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from mpp_gateway.config import BaseUrl, GatewayConfig, Route, Service
from mpp_gateway.errors import BadTarget, MethodNotAllowed, NotFound
from mpp_gateway.routing import Match, Preflight, RouteTable, parse_target
from mpp_gateway.routing.pattern import lenient_form

PIECES = st.sampled_from(
    [
        "/",
        "//",
        ".",
        "..",
        "%2e",
        "%2E",
        "%2f",
        "%5c",
        "%00",
        "%25",
        "%",
        "\\",
        "?",
        "#",
        ";",
        "*",
        "a",
        "B",
        "api",
        "pay",
        "chat",
        "%63",
        " ",
        "\r\n",
        "\u00e9",
        "http:",
        "@",
        ":",
        "x=1",
    ]
)
TARGETS = st.one_of(
    st.text(), st.lists(PIECES).map("".join), st.lists(PIECES).map(lambda p: "/" + "".join(p))
)
METHODS = (
    st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "TRACE", "get", "", "\x00"]) | st.text()
)


def config(base_path=""):
    routes = (
        Route("POST /chat", "POST", "/chat", free=False),
        Route("GET /b/:id", "GET", "/b/:id", free=False),
        Route("/a/*", None, "/a/*", free=True),
        Route("GET /*", "GET", "/*", free=True),
    )
    service = Service("api", BaseUrl("https", "upstream.example", 443, "/base"), routes)
    return GatewayConfig(
        file="c",
        realm="r",
        secret_keys=(),
        services={"api": service},
        methods={},
        base_path=base_path,
    )


@given(METHODS, TARGETS)
def test_a_target_is_kept_byte_for_byte_or_refused(method, raw):
    try:
        target = parse_target(method, raw)
    except BadTarget:
        return

    assert raw == target.path + ("" if target.query is None else f"?{target.query}")


@given(TARGETS)
def test_no_dot_segment_is_left_after_decoding_once(raw):
    try:
        path = parse_target("GET", raw).path
    except BadTarget:
        return

    assert path.startswith("/")
    assert not path.startswith("//")
    assert not {".", ".."} & set(unquote(path).replace("\\", "/").split("/"))


@given(METHODS, TARGETS, st.sampled_from(["", "/pay"]))
def test_what_matches_is_forwarded_byte_for_byte(method, raw, base_path):
    prefix = f"{base_path}/api"
    try:
        found = RouteTable.build(config(base_path)).match(method, prefix + raw)
    except (BadTarget, NotFound, MethodNotAllowed):
        return

    if isinstance(found, Match):
        assert f"/base{raw}" == found.upstream_target
    else:
        assert isinstance(found, Preflight)


@given(st.lists(PIECES))
def test_no_spelling_of_a_paid_path_is_matched_by_a_free_route(pieces):
    raw = "/" + "".join(pieces)
    try:
        found = RouteTable.build(config()).match("POST", f"/api{raw}")
    except (BadTarget, NotFound, MethodNotAllowed):
        return

    assert isinstance(found, Match)
    assert found.route.key == "POST /chat" or lenient_form(raw.partition("?")[0]).lower() != "/chat"


@given(TARGETS)
def test_the_lenient_form_is_a_fixed_point_of_slashes_and_dots(raw):
    form = lenient_form(raw)

    assert form == "" or form.startswith("/")
    assert "//" not in form
    assert not {".", ".."} & set(form.split("/")[1:])
