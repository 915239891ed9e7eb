"""mitmproxy as it comes, without the gateway, for the tests of what the design rests on."""

from contextlib import contextmanager
from pathlib import Path

from mitmproxy import ctx, http

from mpp_gateway.addons.runtime import Runtime

from .certificates import self_signed
from .proxy import Proxy
from .upstream import OK, upstream

GET = b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n"
REFUSAL = b"refused by the addon"


class Lazy:
    """An addon of the test; `load` makes the stock proxy comparable to ours."""

    def load(self, loader):
        ctx.options.update(connection_strategy="lazy")


@contextmanager
def stock(addon, respond=OK, *, tls: Path | None = None, **options):
    """Run mitmproxy in front of an upstream, with one addon of the test.

    With a folder for its certificate in `tls` the upstream speaks TLS.
    """
    context = None
    if tls is not None:
        context, trusted = self_signed(tls)
        options["ssl_verify_upstream_trusted_ca"] = str(trusted)
    with upstream(respond, ssl=context) as server:
        proxy = Proxy(Runtime(), [addon], f"reverse:{server.url}", **options)
        proxy.start()
        try:
            yield proxy, server
        finally:
            proxy.stop()


def refuse(flow):
    flow.response = http.Response.make(402, REFUSAL)
