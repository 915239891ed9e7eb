"""Where the published vectors are: they are not part of this repository."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.components import VECTORS, do_without

REPOSITORY = Path(__file__).resolve().parents[2]


def _folder() -> Path | None:
    """The folder of the conformance files: `MPP_VECTORS`, or one that lies beside the checkout."""
    if named := os.environ.get("MPP_VECTORS"):
        return Path(named)
    return next(iter(sorted(REPOSITORY.parent.glob("*/vectors/conformance"))), None)


def _load(folder: Path | None, name: str) -> Any:
    if folder is None or not (folder / name).is_file():
        do_without(name, VECTORS)
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def conformance():
    """Return a function that loads one published conformance file."""
    folder = _folder()
    return lambda name: _load(folder, name)


@pytest.fixture(scope="session")
def worked_examples():
    """The worked examples that were cross-checked with the SDKs; they lie beside the vectors."""
    folder = _folder()
    return _load(folder.parent if folder else None, "gateway-worked-examples.json")
