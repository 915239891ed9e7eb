"""The document as other people's validators see it."""

import json
import subprocess

import pytest

from mpp_gateway.discovery.openapi import openapi_json
from tests.support.components import need
from tests.unit.discovery.scenery import ROOT, acme, catalog_of, config_of
from tests.unit.discovery.test_openapi import many

MPPX = ROOT / "tests" / "peers" / "node_modules" / "mppx"
DOCUMENTS = {
    "acme": lambda: openapi_json(catalog_of(acme())),
    "alike": lambda: openapi_json(
        catalog_of(
            config_of('"GET /x/:id": {charge: "1"}\n"/x/*": {charge: "2"}\n"PUT /:path/*": free')
        )
    ),
    "truncated": lambda: openapi_json(catalog_of(config_of(many(400)))),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_openapi_spec_validator_accepts_the_document(name):
    need("openapi-spec-validator")
    from openapi_spec_validator import OpenAPIV31SpecValidator

    errors = list(OpenAPIV31SpecValidator(json.loads(DOCUMENTS[name]())).iter_errors())
    assert not errors


@pytest.mark.parametrize("name", DOCUMENTS)
def test_mppx_accepts_the_document_without_a_warning(name, tmp_path):
    need("mppx")
    file = tmp_path / "openapi.json"
    file.write_bytes(DOCUMENTS[name]())
    command = [
        "node",
        str(MPPX / "dist" / "bin.js"),
        "discover",
        "validate",
        str(file),
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[warning]" not in done.stdout
    assert "[error]" not in done.stdout
