"""From a raw target to a route: first match wins, on bytes, and no verb borrows another's route."""

import pytest

from mpp_gateway.errors import BadTarget, MethodNotAllowed, NotFound
from mpp_gateway.routing import Preflight, RouteTable

ORDINARY = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


def key(table, method, target):
    """What a request comes to: a route key, a Preflight, or the name of the refusal."""
    try:
        found = table.match(method, target)
    except (NotFound, MethodNotAllowed, BadTarget) as problem:
        return type(problem).__name__
    return found if isinstance(found, Preflight) else found.route.key


def allow(table, method, target):
    with pytest.raises(MethodNotAllowed) as caught:
        table.match(method, target)
    return caught.value.allow


# --- mounting -----------------------------------------------------------------------------------


def test_a_service_is_mounted_at_its_id(table):
    found = table({"GET /x": "free"}).match("GET", "/api/x")

    assert (found.service.id, found.route.key) == ("api", "GET /x")


def test_the_path_of_the_base_url_is_put_before_the_clients(table):
    found = table({"GET /x": "free"}).match("GET", "/api/x?y=1")

    assert (
        found.upstream_path,
        found.query,
        found.upstream_target,
    ) == ("/base/x", "y=1", "/base/x?y=1")


def test_an_empty_query_is_kept(table):
    made = table({"GET /x": "free"})

    assert made.match("GET", "/api/x?").upstream_target == "/base/x?"
    assert made.match("GET", "/api/x").upstream_target == "/base/x"


@pytest.mark.parametrize(
    "target", ["/", "/other/x", "/API/x", "/ap%69/x", "/api", "/apix/x", "/api?x", "/x"]
)
def test_what_is_outside_every_service_is_not_found(table, target):
    assert key(table({"/*": "free"}), "GET", target) == "NotFound"


def test_services_do_not_see_each_others_routes(table):
    made = table({"GET /x": "free"}, other={"GET /y": "free"})

    assert key(made, "GET", "/other/y") == "GET /y"
    assert key(made, "GET", "/other/x") == "NotFound"


def test_a_base_path_is_stripped_first(table):
    made = table({"GET /x": "free"}, base_path="/pay/v2")

    assert made.match("GET", "/pay/v2/api/x").upstream_path == "/base/x"


@pytest.mark.parametrize(
    "target", ["/payx/api/x", "/api/x", "/pay", "/pay/", "/PAY/api/x", "/pay//api/x"]
)
def test_what_is_outside_the_base_path_is_not_found(table, target):
    assert key(table({"/*": "free"}, base_path="/pay"), "GET", target) == "NotFound"


def test_a_single_route_is_mounted_without_a_prefix(service):
    only = service({"/*": 5})
    made = RouteTable.single(only)

    assert made.match("POST", "/any/path/").upstream_path == "/base/any/path/"
    assert made.match("GET", "/").upstream_path == "/base/"


# --- patterns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/", "/", True),
        ("/", "//", False),
        ("/a", "/a", True),
        ("/a", "/a/", False),
        ("/a/", "/a", False),
        ("/a", "/A", False),
        ("/a", "/a/b", False),
        ("/a", "/%61", False),
        ("/%61", "/%61", True),
        ("/a%2Fb", "/a%2fb", False),
        ("/a//b", "/a//b", True),
        ("/a/b", "/a//b", False),
        ("/a.b", "/axb", False),
        ("/:x", "/a", True),
        ("/:x", "/", False),
        ("/:x", "/a/", False),
        ("/:x", "/a%2fb", True),
        ("/:x", "/a;v=1", True),
        ("/:x/b", "/a/b", True),
        ("/:x/b", "//b", False),
        ("/files/*", "/files/", True),
        ("/files/*", "/files/a/b", True),
        ("/files/*", "/files", False),
        ("/files/*", "/filesx/a", False),
        ("/*", "/", True),
        ("/*", "/a//b/", True),
        ("/:x/*", "/a/", True),
        ("/:x/*", "/a", False),
        ("/m/x:go", "/m/x:go", True),
        ("/a+", "/aa", False),
    ],
)
def test_a_pattern_matches_raw_bytes(table, pattern, path, matches):
    expected = f"GET {pattern}" if matches else "NotFound"

    assert expected == key(table({f"GET {pattern}": "free"}), "GET", f"/api{path}")


def test_parameters_are_given_undecoded(table):
    found = table({"GET /a/:one/:two/*": "free"}).match("GET", "/api/a/x%20y/z;v=1/rest")

    assert found.params == {"one": "x%20y", "two": "z;v=1"}


def test_a_literal_route_has_no_parameters(table):
    assert table({"GET /a": "free"}).match("GET", "/api/a").params == {}


@pytest.mark.parametrize(
    "path",
    ["/a//b", "/a/", "/a;v=1", "/caf%C3%A9", "/a%2fb", "/%252e%252e/a", "/a%20b", "/...", "/%63"],
)
def test_what_matches_is_forwarded_byte_for_byte(table, path):
    assert f"/base{path}" == table({"/*": "free"}).match("GET", f"/api{path}").upstream_path


# --- order and methods --------------------------------------------------------------------------


def test_the_first_match_wins(table):
    made = table({"GET /a": 1, "GET /:x": 2, "/*": 3})

    assert [key(made, "GET", target) for target in ("/api/a", "/api/b", "/api/b/c")] == [
        "GET /a",
        "GET /:x",
        "/*",
    ]


def test_a_wider_route_that_stands_first_wins_over_a_literal_one(table):
    assert key(table({"GET /:x": 2, "GET /a": 1}), "GET", "/api/a") == "GET /:x"


def test_no_verb_falls_back_to_the_route_of_another(table):
    made = table({"GET /x": "free", "POST /x": 5})

    assert [key(made, method, "/api/x") for method in ("GET", "POST", "PUT")] == [
        "GET /x",
        "POST /x",
        "MethodNotAllowed",
    ]


@pytest.mark.parametrize(
    "method", ["get", "Post", "pOST", "", "GET /paid HTTP/1.1", "G\tT", "G\xc9T"]
)
def test_a_method_that_an_upstream_could_read_as_another_is_refused(table, method):
    """With `POST /x: paid` and `/*: free`, `post /x` would be served by whoever folds its case."""
    made = table({"POST /x": 5, "/*": "free"})
    assert key(made, method, "/api/x") == "BadTarget"


def test_another_verb_on_a_known_path_names_what_is_allowed(table):
    made = table({"POST /x": 5, "GET /x": "free", "DELETE /:y": 1})

    assert allow(made, "PUT", "/api/x") == ("DELETE", "GET", "HEAD", "OPTIONS", "POST")
    assert allow(made, "GET", "/api/z") == ("DELETE", "OPTIONS")


def test_a_route_without_a_method_takes_every_verb(table):
    made = table({"/x": 5})

    assert {"/x"} == {key(made, m, "/api/x") for m in ("GET", "HEAD", "POST", "PROPFIND", "X")}


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT"])
def test_trace_cannot_make_the_upstream_echo_the_secret(table, method):
    made = table({"/x": "free"})

    assert allow(made, method, "/api/x") == ORDINARY


# --- HEAD ---------------------------------------------------------------------------------------


def test_head_costs_what_get_costs(table):
    found = table({"GET /x": 7}).match("HEAD", "/api/x")

    assert tuple(price.amount_minor for price in found.route.prices) == (7,)


def test_an_explicit_head_route_takes_head(table):
    assert key(table({"HEAD /x": "free", "GET /x": 7}), "HEAD", "/api/x") == "HEAD /x"
    assert key(table({"GET /x": 7, "HEAD /x": "free"}), "HEAD", "/api/x") == "HEAD /x"


def test_a_free_route_further_down_does_not_make_head_free(table):
    assert key(table({"GET /x": 7, "/*": "free"}), "HEAD", "/api/x") == "GET /x"


def test_a_route_for_every_method_that_stands_first_takes_head(table):
    assert key(table({"/x": 1, "GET /:y": 7}), "HEAD", "/api/x") == "/x"


def test_head_on_a_path_without_get_is_not_allowed(table):
    assert allow(table({"POST /x": 5}), "HEAD", "/api/x") == ("OPTIONS", "POST")


# --- OPTIONS ------------------------------------------------------------------------------------


def test_a_preflight_on_a_known_path_is_answered_by_the_gateway(table):
    made = table({"GET /x": "free", "POST /x": 5})

    assert Preflight(("GET", "HEAD", "OPTIONS", "POST"), "api") == made.match("OPTIONS", "/api/x")


def test_a_preflight_is_never_charged(table):
    assert Preflight(ORDINARY, "api") == table({"/x": 5}).match("OPTIONS", "/api/x")


@pytest.mark.parametrize("free", ["/x", "OPTIONS /x", "/*"])
def test_options_goes_to_a_free_route_that_takes_it(table, free):
    assert free == key(table({"POST /x": 5, free: "free"}), "OPTIONS", "/api/x")


def test_an_explicit_free_options_route_stands_beside_a_paid_one_for_every_method(table):
    made = table({"/x": 5, "OPTIONS /x": "free"})

    assert key(made, "OPTIONS", "/api/x") == "OPTIONS /x"


def test_a_free_route_further_down_does_not_take_options_of_a_paid_path(table):
    assert isinstance(key(table({"/x": 5, "/*": "free"}), "OPTIONS", "/api/x"), Preflight)


def test_a_preflight_on_an_unknown_path_is_not_found(table):
    assert key(table({"GET /x": "free"}), "OPTIONS", "/api/y") == "NotFound"


def test_options_of_the_server_is_answered_by_the_gateway(table):
    assert Preflight(ORDINARY) == table({"GET /x": "free"}).match("OPTIONS", "*")


# --- two readings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/%63hat",
        "/v1//chat",
        "/V1/Chat",
        "/v1/chat/",
        "/v1/chat;x=1",
        "/v1;x/chat",
        "/v1%2fchat",
        "/v1/%2563hat",
        "/x/%252e%252e/v1/chat",
        "/v1/CHAT//",
        "/%76%31/chat",
    ],
)
def test_a_paid_route_cannot_be_reached_as_a_free_one_by_another_spelling(table, path):
    made = table({"POST /v1/chat": 5, "/*": "free"})

    assert key(made, "POST", f"/api{path}") == "BadTarget"


def test_an_encoded_slash_cannot_reach_a_paid_route_below_a_free_one(table):
    made = table({"GET /files/:id": "free", "GET /files/:id/content": 5})

    assert key(made, "GET", "/api/files/a%2fcontent") == "BadTarget"
    assert key(made, "GET", "/api/files/a%2fother") == "GET /files/:id"


def test_a_dear_route_cannot_be_reached_at_the_price_of_a_cheap_one(table):
    made = table({"POST /big": 500, "POST /:x": 1})

    assert key(made, "POST", "/api/bi%67") == "BadTarget"
    assert key(made, "POST", "/api/smal%6c") == "POST /:x"


@pytest.mark.parametrize(
    "path", ["/other/%63hat", "/v1/chats/", "/Photos/IMG_1.JPG", "/a//b", "/v1/chat%2fx"]
)
def test_another_spelling_of_no_paid_route_is_forwarded(table, path):
    made = table({"POST /v1/chat": 5, "/*": "free"})

    assert key(made, "POST", f"/api{path}") == "/*"


def test_another_spelling_matters_for_the_method_that_is_paid_only(table):
    made = table({"POST /v1/chat": 5, "/*": "free"})

    assert key(made, "GET", "/api/v1/%63hat") == "/*"


def test_a_route_that_is_spelled_out_is_taken_at_its_word(table):
    made = table({"GET /a": 5, "GET /a/": "free", "GET /%61": "free"})

    assert [key(made, "GET", t) for t in ("/api/a/", "/api/%61")] == ["GET /a/", "GET /%61"]


def test_the_head_of_a_paid_answer_cannot_be_had_by_another_spelling(table):
    assert key(table({"GET /x": 5, "/*": "free"}), "HEAD", "/api/%78") == "BadTarget"


def test_capitals_in_a_pattern_do_not_hide_it(table):
    assert key(table({"GET /V1": 5, "/*": "free"}), "GET", "/api/v1") == "BadTarget"
