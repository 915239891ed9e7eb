"""`mpp-gateway serve`: says what is for sale, then sells it."""

import sys

from mpp_gateway.addons.runtime import Runtime
from mpp_gateway.cli import catalogue
from mpp_gateway.cli.complaints import told_on_stderr
from mpp_gateway.cli.exits import CANNOT_START, INTERRUPTED, OK
from mpp_gateway.cli.output import CommandFailed, say
from mpp_gateway.cli.sales import sales_log
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.engine.server import Server, StartFailed


async def keep(config: GatewayConfig) -> int:
    """Serve until told to stop."""
    server = Server(config, Runtime(sales_log(config, say)))

    def started(port: int) -> None:
        say(catalogue.catalogue(config, sys.stderr))
        catalogue.warn(config)
        scheme = "https" if config.tls else "http"
        host = f"[{config.listen.host}]" if ":" in config.listen.host else config.listen.host
        say(f"\nserving on {scheme}://{host}:{port}{config.base_path} (Ctrl-C stops)")

    try:
        with told_on_stderr():
            await server.run(started)
    except StartFailed as error:
        raise CommandFailed(str(error), CANNOT_START) from None
    return OK if server.port else INTERRUPTED
