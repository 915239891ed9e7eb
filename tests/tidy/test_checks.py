"""The checks themselves: each mistake, written down, is found."""

import ast

import pytest

from tests.tidy.checks import impurities, is_broad, wrong_ranks
from tests.tidy.source import parsed


@pytest.mark.parametrize(
    ("package", "text"),
    [
        ("protocol", "import pydantic"),
        ("protocol", "from pydantic import BaseModel"),
        ("protocol", "import subprocess, urllib.request, uuid"),
        ("protocol", "from pathlib import Path"),
        ("protocol", "import collections"),
        ("protocol", "import coincurve"),
        ("protocol", "def f():\n    import os"),
        ("protocol", "from ..rails import base"),
        ("protocol", "from .. import rails"),
        ("protocol", "from datetime import UTC, datetime\nx = datetime.now(UTC)"),
        ("protocol", "import datetime\nx = datetime.datetime.now(datetime.UTC)"),
        ("protocol", "from datetime import datetime\nclock = datetime.utcnow"),
        ("protocol", "from datetime import date\nx = date.today()"),
        ("protocol", "x = open('/etc/passwd')"),
        ("protocol", "x = __import__('time')"),
        ("protocol", "async def f(): ..."),
        ("crypto", "import secrets"),
        ("crypto", "import time"),
        ("crypto", "import logging"),
        ("crypto", "from Crypto import Random"),
        ("crypto", "from mpp_gateway.protocol import jcs"),
        ("crypto", "from ..protocol import jcs"),
    ],
)
def test_values_and_rules_reach_for_nothing_else(package, text):
    assert len(list(impurities(parsed(f"{package}/new.py", text)))) >= 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("protocol/new.py", "import re\nfrom collections.abc import Mapping\nimport hashlib"),
        ("protocol/new.py", "from . import jcs\nfrom .jcs import decode_object"),
        ("protocol/__init__.py", "from .jcs import decode_object"),
        ("protocol/new.py", "from ..crypto.keccak import keccak256"),
        ("protocol/new.py", "from datetime import UTC, datetime\nx = datetime(2026, 1, 1)"),
        ("crypto/new.py", "import coincurve\nfrom Crypto.Hash import keccak"),
        ("rails/new.py", "import time, secrets, logging\nx = open('gateway.yaml')"),
    ],
)
def test_what_is_pure_or_elsewhere_is_left_alone(name, text):
    assert list(impurities(parsed(name, text))) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("protocol/new.py", "from ..rails import base"),
        ("protocol/new.py", "from .. import rails"),
        ("protocol/__init__.py", "from ..errors import Problem"),
        ("rails/evm/new.py", "from ...gateway import admission"),
        ("rails/evm/__init__.py", "from ...gateway.admission import ADMISSION"),
        ("ledger/new.py", "import mpp_gateway.routing.match"),
        ("config/new.py", "def f():\n    from mpp_gateway.cli import start"),
    ],
)
def test_an_import_from_above_is_found_however_it_is_written(name, text):
    assert len(list(wrong_ranks(parsed(name, text)))) == 1


@pytest.mark.parametrize("text", ["from . import request", "from ..base import Rail"])
def test_an_import_of_the_own_package_is_none_from_above(text):
    assert list(wrong_ranks(parsed("rails/evm/new.py", text))) == []


@pytest.mark.parametrize(
    ("caught", "answer"),
    [
        ("except:", True),
        ("except Exception:", True),
        ("except builtins.Exception:", True),
        ("except (ValueError, builtins.BaseException):", True),
        ("except* builtins.Exception:", True),
        ("except asyncio.CancelledError:", False),
        ("except errors.StoreException:", False),
    ],
)
def test_an_except_of_everything_is_found_under_any_name(caught, answer):
    tree = ast.parse(f"try:\n    f()\n{caught}\n    pass")
    assert any(is_broad(node) for node in ast.walk(tree)) is answer


def test_a_suppress_of_everything_is_found_and_an_except_that_raises_again_is_none():
    suppressed = ast.parse("with contextlib.suppress(builtins.Exception):\n    f()")
    raised = ast.parse("try:\n    f()\nexcept Exception:\n    raise")
    assert any(is_broad(node) for node in ast.walk(suppressed))
    assert not any(is_broad(node) for node in ast.walk(raised))
