"""One function a command. What is heavy is imported by the command that needs it."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from mpp_gateway.cli import catalogue
from mpp_gateway.cli.documents import explain_document
from mpp_gateway.cli.output import (
    BAD_CONFIG,
    CANNOT_START,
    FAILED,
    OK,
    USAGE,
    CommandFailed,
    emit_json,
    for_people,
    say,
    styled,
)
from mpp_gateway.cli.sales import sales_log
from mpp_gateway.config import load
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.config.values import is_loopback
from mpp_gateway.gateway.explanation import explain as explain_request


def read_config(path: Path) -> GatewayConfig:
    """Return the checked configuration; a missing file is one clear line."""
    if not path.exists():
        raise CommandFailed(
            f"{path}: no such file (name one with --config, or start from configs/minimal.yaml)",
            BAD_CONFIG,
        )
    return load(path, os.environ)


async def check(options: argparse.Namespace) -> int:
    """Print what the configuration sells."""
    config = read_config(options.config)
    if options.json or not for_people():
        emit_json(catalogue.as_json(config))
        return OK
    print(catalogue.catalogue(config))
    for warning in config.warnings:
        say(styled(f"warning: {warning}", "yellow", sys.stderr))
    return OK


async def explain(options: argparse.Namespace) -> int:
    """Say what would happen to one request."""
    config = read_config(options.config)
    request = (options.method, options.target)
    explanation = explain_document(config, *request) or explain_request(config, *request)
    if options.json or not for_people():
        emit_json(dataclasses.asdict(explanation))
    else:
        print(explanation.text())
    return OK if explanation.status < 400 or explanation.status == 402 else FAILED


async def serve(options: argparse.Namespace) -> int:
    """Serve until told to stop."""
    config = _listening(read_config(options.config), options)
    # Heavy, so a file with mistakes is refused first.
    from mpp_gateway.addons.runtime import Runtime  # noqa: PLC0415
    from mpp_gateway.engine.server import Server, StartFailed  # noqa: PLC0415

    host = f"[{config.listen.host}]" if ":" in config.listen.host else config.listen.host

    def started(port: int) -> None:
        say(catalogue.catalogue(config, sys.stderr))
        for warning in config.warnings:
            say(styled(f"warning: {warning}", "yellow", sys.stderr))
        scheme = "https" if config.tls else "http"
        say(f"\nserving on {scheme}://{host}:{port}{config.base_path} (Ctrl-C stops)")

    try:
        await Server(config, Runtime(sales_log(config, say))).run(started)
    except StartFailed as error:
        raise CommandFailed(str(error), CANNOT_START) from None
    return OK


def _listening(config: GatewayConfig, options: argparse.Namespace) -> GatewayConfig:
    """Return `config` with the address of the command line; the file's rules hold for it too."""
    host = options.host or config.listen.host
    is_covered = config.tls or config.trusted_proxies or config.allow_insecure
    if not is_loopback(host) and not is_covered:
        # In clear text anybody on the way can read a proof of payment and spend it first.
        raise CommandFailed(
            f"--host {host}: clear text leaves this machine; the file needs `tls`,"
            " `trusted_proxies` or `allow_insecure: true`",
            USAGE,
        )
    port = config.listen.port if options.port is None else options.port
    listen = dataclasses.replace(config.listen, host=host, port=port)
    return dataclasses.replace(config, listen=listen)


async def pay(options: argparse.Namespace) -> int:
    """Call a paid URL as a buyer."""
    from mpp_gateway.cli.buyer import pay as pay_url  # noqa: PLC0415 - heavy

    return await pay_url(options)


async def demo(options: argparse.Namespace) -> int:
    """Run the demo."""
    try:
        from mpp_gateway.demo.show import run  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CommandFailed(
            f"the demo needs its extra ({error.name} is missing): pip install 'mpp-gateway[demo]'"
        ) from None
    return await run(once=options.once, port=options.port)
