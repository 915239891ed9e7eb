"""scripts/footprint: what a start costs, and that no library is loaded for a rail not in use."""

import json
import subprocess
import sys

import pytest

from tests.support.components import ROOT

SCRIPT = [sys.executable, str(ROOT / "scripts" / "footprint")]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SCRIPT, *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rows():
    done = run("--runs", "1")
    assert (done.returncode, done.stderr) == (0, "")
    return {row["configuration"]: row for row in json.loads(done.stdout)}


def test_every_configuration_is_measured(rows):
    assert list(rows) == ["none", "evm", "evm-own-key", "stripe", "tempo", "all"]
    for row in rows.values():
        assert 100 < row["ready_ms"] < 60_000
        assert 20 < row["memory_mib"] <= row["peak_mib"] < 2_000
        assert row["modules"] > 500


@pytest.mark.parametrize("library", ["stripe", "web3", "eth_account"])
def test_nothing_is_loaded_where_nothing_is_sold(rows, library):
    assert library not in rows["none"]["loaded"]


@pytest.mark.parametrize("name", ["none", "evm", "evm-own-key", "tempo"])
def test_without_stripe_its_library_is_never_imported(rows, name):
    assert "stripe" not in rows[name]["loaded"]


@pytest.mark.parametrize("name", ["none", "stripe", "tempo"])
def test_without_evm_no_library_of_its_is_ever_imported(rows, name):
    assert not {"web3", "eth_account"} & set(rows[name]["loaded"])


def test_each_rail_loads_what_it_needs_so_that_the_tests_can_fail(rows):
    assert "stripe" in rows["stripe"]["loaded"]
    assert "eth_account" in rows["evm-own-key"]["loaded"]
    assert {"stripe", "eth_account"} <= set(rows["all"]["loaded"])


def test_what_is_none_is_refused_in_a_line():
    done = run("paypal")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such configuration: paypal" in done.stderr
    assert run("--runs", "0").returncode == 2
