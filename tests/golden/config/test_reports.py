"""Configuration in, report out: each `*.yaml` here has its report beside it in `*.txt`."""

from pathlib import Path

import pytest

from mpp_gateway.config import load_text
from mpp_gateway.errors import ConfigError

FOLDER = Path(__file__).parent
ENVIRON = {"MPP_SECRET_KEY": "k" * 32, "DB_PASSWORD": "marked-secret", "TTL": "soon"}
CASES = sorted(FOLDER.glob("*.yaml"))


def report(path):
    with pytest.raises(ConfigError) as caught:
        load_text(path.read_text(encoding="utf-8"), path.name, ENVIRON)
    return f"{caught.value}\n"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_report_is_what_it_was(path):
    assert path.with_suffix(".txt").read_text(encoding="utf-8") == report(path)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_report_has_one_line_for_each_mistake_and_no_secret(path):
    text = report(path)

    assert all(line.startswith(f"{path.name}:") for line in text.splitlines())
    assert "marked-secret" not in text
    assert "password" not in text.replace("without user name or password", "")
