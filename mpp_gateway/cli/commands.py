"""One function a command; it returns what is to be awaited.

What is heavy is imported by the command that needs it, and before anything is awaited: an import
can be interrupted then without anything to close.
"""

import argparse
import dataclasses
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from mpp_gateway.cli import catalogue
from mpp_gateway.cli.documents import explain_document
from mpp_gateway.cli.exits import BAD_CONFIG, FAILED, OK, USAGE
from mpp_gateway.cli.output import CommandFailed, emit_json, for_people
from mpp_gateway.config import load
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.config.values import is_loopback
from mpp_gateway.gateway.explanation import explain as explain_request


def read_config(path: Path) -> GatewayConfig:
    """Return the checked configuration; a file that is not there is one clear line."""
    cure = "name one with --config, or start from configs/minimal.yaml"
    try:
        if not path.is_dir():
            path.stat()
            return load(path, os.environ)
    except FileNotFoundError:
        reason = "no such file"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    else:
        reason = "this is a folder"
    raise CommandFailed(f"{path}: {reason} ({cure})", BAD_CONFIG)


async def check(options: argparse.Namespace) -> int:
    """Print what the configuration sells."""
    config = read_config(options.config)
    if options.json or not for_people():
        emit_json(catalogue.as_json(config))
        return OK
    print(catalogue.catalogue(config))
    catalogue.warn(config)
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


def serve(options: argparse.Namespace) -> Coroutine[Any, Any, int]:
    """Serve until told to stop."""
    config = _listening(read_config(options.config), options)
    # Heavy, so a file with mistakes is refused first.
    from mpp_gateway.cli.shopkeeper import keep  # noqa: PLC0415

    return keep(config)


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


def pay(options: argparse.Namespace) -> Coroutine[Any, Any, int]:
    """Call a paid URL as a buyer."""
    from mpp_gateway.cli.buyer import pay as pay_url  # noqa: PLC0415 - heavy

    return pay_url(options)


def demo(options: argparse.Namespace) -> Coroutine[Any, Any, int]:
    """Run the demo."""
    try:
        from mpp_gateway.demo.show import run  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CommandFailed(
            f"the demo needs its extra ({error.name} is missing): pip install '.[demo]' in the"
            " folder of the sources"
        ) from None
    return run(once=options.once, port=options.port)
