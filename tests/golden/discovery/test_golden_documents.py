"""The documents of two configurations, byte for byte.

    UPDATE_GOLDEN=1 pytest tests/golden/discovery

writes them anew; look at the difference before you keep it.
"""

import os
from pathlib import Path

import pytest

from mpp_gateway.config import load
from tests.unit.discovery.scenery import ROOT, acme, documents_of

HERE = Path(__file__).parent
ENVIRON = {
    "MPP_SECRET_KEY": "0123456789abcdef0123456789abcdef",
    "RECIPIENT": "0x0000000000000000000000000000000000000001",
}


def minimal():
    return load(ROOT / "configs" / "minimal.yaml", ENVIRON)


@pytest.mark.parametrize(("name", "config"), [("acme", acme), ("minimal", minimal)])
def test_every_document_is_the_one_on_file(name, config):
    folder = HERE / name
    pages = documents_of(config()).pages
    found = {
        f"{path.removeprefix('/').replace('/', '.')}{_suffix(media)}": document.body
        for path, page in pages.items()
        for media, document in page.documents.items()
        if media != "text/plain" or not page.is_negotiated
    }
    if os.environ.get("UPDATE_GOLDEN"):
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for file, body in found.items():
            (folder / file).write_bytes(body)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == found


@pytest.mark.parametrize("config", [acme, minimal])
def test_the_same_configuration_gives_the_same_bytes(config):
    def bodies():
        pages = documents_of(config()).pages
        return {
            (path, m): d.etag for path, page in pages.items() for m, d in page.documents.items()
        }

    assert bodies() == bodies()


def _suffix(media: str) -> str:
    return {"application/json": "", "text/markdown": ".markdown", "text/plain": ".text"}[media]
