"""Which of the upstream's documents are missing: only what the upstream says it does not have."""

import asyncio

import pytest

from mpp_gateway.addons.probe import missing_documents
from mpp_gateway.config.model import BaseUrl
from tests.support.process import free_port
from tests.support.upstream import upstream

PATHS = ("/openapi.json", "/llms.txt")


def missing(port: int) -> frozenset[str]:
    return asyncio.run(missing_documents(BaseUrl("http", "127.0.0.1", port, ""), PATHS))


@pytest.mark.parametrize("status", [404, 410])
def test_what_the_upstream_says_it_does_not_have_is_missing(status):
    with upstream(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()) as api:
        assert missing(api.port) == set(PATHS)


@pytest.mark.parametrize("status", [200, 204, 301, 401, 403, 405, 429, 500, 503])
def test_every_other_answer_leaves_the_path_to_the_upstream(status):
    with upstream(f"HTTP/1.1 {status} Yes\r\nContent-Length: 0\r\n\r\n".encode()) as api:
        assert missing(api.port) == set()


def test_no_answer_leaves_the_path_to_the_upstream():
    assert missing(free_port()) == set()
    with upstream(b"nonsense\r\n\r\n") as api:
        assert missing(api.port) == set()
