"""What discovery answers: documents, validators, methods, names that do not exist."""

import hashlib
import json

import pytest

from mpp_gateway.config import GatewayConfig
from mpp_gateway.config.services import RESERVED_IDS
from mpp_gateway.discovery.answering import answer
from mpp_gateway.discovery.documents import Documents, Library
from mpp_gateway.discovery.health import RuntimeState
from mpp_gateway.protocol.messages import Answer
from tests.unit.discovery.scenery import acme, config_of, documents_of, head, snapshot_of

OPEN = RuntimeState(is_open=True)
SHUT = RuntimeState(is_open=False)
PLAIN = documents_of(config_of('"GET /x": {charge: "0.01"}'))
PATHS = [
    "/openapi.json",
    "/llms.txt",
    "/discover",
    "/discover.md",
    "/discover/all",
    "/discover/all.md",
    "/discover/shop",
    "/discover/shop.md",
]
NEGOTIATED = {"/discover", "/discover/all", "/discover/shop"}


def ask(
    target: str, method: str = "GET", documents: Documents = PLAIN, **fields: str
) -> Answer | None:
    return answer(documents, head(target, method, **fields), OPEN)


def fields(found: Answer | None) -> dict[str, str]:
    assert found is not None
    return {name.lower(): value for name, value in found.headers}


@pytest.mark.parametrize(
    ("path", "default", "for_agents"),
    [
        ("/openapi.json", "application/json", "application/json"),
        ("/llms.txt", "text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("/discover", "application/json", "text/plain; charset=utf-8"),
        ("/discover.md", "text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("/discover/all", "application/json", "text/markdown; charset=utf-8"),
        ("/discover/all.md", "text/markdown; charset=utf-8", "text/markdown; charset=utf-8"),
        ("/discover/shop", "application/json", "text/markdown; charset=utf-8"),
        ("/discover/shop.md", "text/markdown; charset=utf-8", "text/markdown; charset=utf-8"),
    ],
)
def test_each_document_has_its_media_type(path, default, for_agents):
    assert fields(ask(path))["content-type"] == default
    assert fields(ask(path, user_agent="curl/8.5.0", accept="*/*"))["content-type"] == for_agents
    markdown = fields(ask(path, accept="text/markdown"))["content-type"]
    assert markdown.startswith("text/markdown") or path not in NEGOTIATED


@pytest.mark.parametrize("path", PATHS)
def test_documents_may_be_cached_and_read_by_every_page(path):
    found = fields(ask(path))
    assert found["cache-control"] == "public, max-age=300"
    assert found["access-control-allow-origin"] == "*"
    assert found.get("vary") == ("Accept, User-Agent" if path in NEGOTIATED else None)
    assert found["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PATHS)
def test_a_reader_who_has_the_document_gets_304(path):
    whole = ask(path)
    tag = fields(whole)["etag"]
    for condition in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        found = ask(path, if_none_match=condition)
        assert (found.status, found.body) == (304, b"")
        assert "content-type" not in fields(found)
        kept = {"etag", "cache-control", "vary", "access-control-allow-origin"}
        assert {n: v for n, v in fields(whole).items() if n in kept} == fields(found)
    for condition in ('"other"', tag.strip('"'), ""):
        assert ask(path, if_none_match=condition).status == 200


def test_the_validator_is_strong_and_tells_representations_apart():
    tags = [
        fields(ask("/discover", accept=t))["etag"]
        for t in ("application/json", "text/plain", "text/markdown")
    ]
    assert len(set(tags)) == 3
    assert not any(tag.startswith("W/") for tag in tags)
    body = ask("/openapi.json").body
    digest = hashlib.sha256(b"application/json\n" + body).hexdigest()
    assert fields(ask("/openapi.json"))["etag"] == f'"sha256-{digest}"'


@pytest.mark.parametrize("path", [*PATHS, "/healthz", "/readyz", "/discover/nobody"])
def test_head_has_the_same_fields_and_no_body(path):
    whole, found = ask(path), ask(path, "HEAD")
    assert (found.status, found.body) == (whole.status, b"")
    assert fields(found) == fields(whole) | {"content-length": str(len(whole.body))}


@pytest.mark.parametrize("path", [*PATHS, "/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "get"])
def test_documents_can_only_be_read(path, method):
    found = ask(path, method)
    assert found.status == 405
    assert fields(found)["allow"] == "GET, HEAD, OPTIONS"
    assert fields(found)["content-type"] == "application/problem+json"


def test_a_preflight_is_answered_so_that_browsers_may_ask():
    found = ask("/openapi.json", "OPTIONS")
    assert (found.status, found.body) == (204, b"")
    assert fields(found)["allow"] == "GET, HEAD, OPTIONS"
    assert fields(found)["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "path",
    [
        "/discover/nobody",
        "/discover/nobody.md",
        "/discover/",
        "/discover/shop/x",
        "/discover/%73hop",
    ],
)
def test_an_unknown_service_is_404(path):
    found = ask(path)
    assert found.status == 404
    assert json.loads(found.body)["type"] == "urn:mpp-gateway:problem:not-found"
    assert fields(found)["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "target",
    [
        "/openapi.json/",
        "/llms.txt/",
        "/healthz/",
        "/OpenAPI.json",
        "/%6fpenapi.json",
        "//openapi.json",
        "/discoverx",
        "/shop/openapi.json",
        "/shop/x",
        "/",
        "*",
        "http://gateway.test/openapi.json",
        "",
    ],
)
def test_every_other_path_is_left_alone(target):
    assert ask(target) is None


def test_a_query_does_not_matter():
    assert ask("/openapi.json?fresh=1") == ask("/openapi.json")


def test_with_a_base_path_documents_are_there_and_at_the_root():
    documents = documents_of(config_of('"GET /x": free', root="base_path: /pay"))
    for path in PATHS:
        below = ask("/pay" + path, documents=documents)
        assert below.status == 200
        assert below == ask(path, documents=documents)
    assert ask("/pay/shop/x", documents=documents) is None
    assert ask("/pay/healthz", documents=documents).status == 200


def test_a_mount_keeps_the_root_free():
    config = config_of('"GET /x": free')
    documents = documents_of(config, "/.well-known/mpp-gateway/")
    for path in [*PATHS, "/healthz", "/readyz"]:
        assert ask(path, documents=documents) is None
        assert ask("/.well-known/mpp-gateway" + path, documents=documents).status == 200
    found = json.loads(ask("/.well-known/mpp-gateway/openapi.json", documents=documents).body)
    assert found["x-service-info"]["docs"]["llms"] == "/.well-known/mpp-gateway/llms.txt"


def test_a_base_path_below_discover_does_not_hide_the_services():
    documents = documents_of(config_of('"GET /x": free', root="base_path: /discover"))
    assert ask("/discover/shop/x", documents=documents) is None
    assert ask("/discover/shop", documents=documents) is None
    assert ask("/discover/discover/shop", documents=documents).status == 200


def test_no_service_can_take_the_first_segment_of_a_document():
    segments = {path.split("/")[1] for path in [*PATHS, "/healthz", "/readyz"]}
    assert segments <= RESERVED_IDS


def test_a_service_whose_name_ends_in_md_has_its_own_page():
    text = """    routes: {"GET /x": free}
  shop.md:
    base_url: https://upstream.example
    title: Another one"""
    documents = documents_of(config_of('"GET /x": free', service=text))
    assert json.loads(ask("/discover/shop.md", documents=documents).body)["title"] == "Another one"
    assert b"`shop.md`" in ask("/discover/shop.md.md", documents=documents).body


# --- secrets -------------------------------------------------------------------------------------


def test_no_document_names_a_secret_or_an_upstream():
    documents = documents_of(acme())
    bodies = [d.body for page in documents.pages.values() for d in page.documents.values()]
    assert len(bodies) > 10
    for body in bodies:
        assert b"marked-secret" not in body


# --- one snapshot, one set of documents ----------------------------------------------------------


def test_documents_are_written_once_per_snapshot():
    library, config = Library(), acme()
    snapshot = snapshot_of(config)
    first = library.of(config, snapshot)
    assert library.of(config, snapshot) is first
    assert first.pages is first.pages
    second = library.of(config, snapshot_of(config))
    assert second is not first
    assert library.of(config, second.snapshot, "/hidden") is not second


def closed(config: GatewayConfig | None = None, mount: str = "") -> Documents:
    return Library().of(config, None, mount)


def test_before_the_gateway_is_open_only_health_is_answered():
    assert answer(closed(), head("/healthz"), SHUT).status == 200
    assert answer(closed(), head("/readyz"), SHUT).status == 503
    for path in [*PATHS, "/discover/nobody"]:
        assert answer(closed(), head(path), SHUT) is None
    assert answer(closed(acme()), head("/paid/readyz"), SHUT).status == 503
    assert answer(closed(mount="/hidden"), head("/healthz"), SHUT) is None
