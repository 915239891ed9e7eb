"""mitmproxy's options while the gateway serves."""

import pytest
from mitmproxy import exceptions

from tests.support.scene import call, scene


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("proxy_debug", True),  # it would log the upstream's secret
        ("connection_strategy", "eager"),
        ("stream_large_bodies", "1m"),
        ("mode", ["regular"]),
    ],
)
def test_what_the_gateway_stands_on_cannot_be_changed_under_it(name, value):
    """mitmweb lets its user change any option at any time."""
    with scene() as play:
        options = play.proxy.master.options
        before = getattr(options, name)
        with pytest.raises(exceptions.OptionsError, match=name):
            play.proxy.call(lambda: options.update(**{name: value}))
        assert getattr(options, name) == before
        assert call("http/1.1", play.port, "GET", "/api/free").status == 200
