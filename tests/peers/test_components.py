"""A missing component is skipped with its remedy on a desk, and fails in CI."""

import pytest

from tests.support import components


@pytest.fixture
def without_peers(tmp_path, monkeypatch):
    monkeypatch.setattr(components, "PEERS", tmp_path)
    monkeypatch.setattr(components, "PYMPP_PYTHON", tmp_path / "python")
    monkeypatch.setattr(components, "X402", tmp_path)
    monkeypatch.setattr(components, "X402_PYTHON", tmp_path / "python")
    monkeypatch.setattr(components.shutil, "which", lambda _: None)


@pytest.mark.parametrize("component", ["node", "mppx", "pympp", "x402", "@x402/fetch"])
def test_a_missing_component_skips_and_says_what_to_install(without_peers, monkeypatch, component):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="install"):
        components.need(component)


@pytest.mark.parametrize("component", ["node", "mppx", "pympp", "x402", "@x402/fetch"])
def test_a_missing_component_fails_in_ci(without_peers, monkeypatch, component):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="is missing"):
        components.need(component)
