"""Takes the listener away from the mode the user gave: what is not aimed must go nowhere."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from mitmproxy import ctx, exceptions
from mitmproxy.proxy import mode_specs

from mpp_gateway.config.model import Listen, Tls
from mpp_gateway.config.values import is_loopback

log = logging.getLogger(__name__)

NOWHERE = "reverse:http://127.0.0.1:1"
"""The mode of every gateway: nothing listens there. True upstreams live in our configuration."""
NOWHERE_ADDRESS = ("127.0.0.1", 1)
POLL_S = 0.02
LISTENER = "listener.pem"
PATIENCE_S = 30


class TakeoverFailed(Exception):
    """The listener could not be moved; the gateway stays closed."""


def leads_nowhere(mode: mode_specs.ProxyMode) -> bool:
    """Whether connections of `mode` reach no upstream but those that we aim."""
    return isinstance(mode, mode_specs.ReverseMode) and mode.address[:2] == NOWHERE_ADDRESS


def reverse_target(modes: list[str]) -> str | None:
    """Return the upstream that the user's mode names, or None for a mode without one of ours."""
    for text in modes:
        mode = mode_specs.ProxyMode.parse(text)
        if isinstance(mode, mode_specs.ReverseMode) and not leads_nowhere(mode):
            host, port = mode.address[:2]
            return f"{mode.scheme}://{host}:{port}"
    return None


def present_certificate(tls: Tls, folder: Path) -> None:
    """Have mitmproxy show the file's certificate instead of one of its own making.

    mitmproxy wants key and chain in one file and reads it again at every change of an option: it
    is put into `folder`, which must live as long. Errors: OSError, `OptionsError`.
    """
    combined = folder / LISTENER
    combined.touch(mode=0o600)
    combined.write_bytes(tls.key.read_bytes() + b"\n" + tls.cert.read_bytes())
    try:
        ctx.options.update(certs=[f"*={combined}"])
    except exceptions.OptionsError as error:
        files = f"{tls.cert} and {tls.key}"
        raise exceptions.OptionsError(f"{files}: no certificate and its key in PEM") from error


def forget_keys(tls: Tls | None, folder: Path) -> None:
    """Take the private keys out of `folder`: killed, we would leave them behind.

    mitmproxy has them in memory, and no option is changed any more. The chain of the certificate is
    read again at handshakes; the authority that mitmproxy made for itself is shown to nobody.
    """
    for path in folder.iterdir():
        if tls is not None and path.name == LISTENER:
            path.write_bytes(tls.cert.read_bytes())
        else:
            path.unlink()


async def take_over(listen: Listen | None, *, may_be_public: bool) -> None:
    """Replace the mode, wait until the servers themselves show it, cut what came in before.

    `listen` is where to listen, as far as the user named no host and no port of mitmproxy's.
    Errors: `TakeoverFailed`, also for clear text beyond this machine unless it `may_be_public`.

    Changing the option alone says nothing: the old listener may still accept connections that
    lead straight to the upstream, unpaid.
    """
    modes = [mode_specs.ProxyMode.parse(text) for text in ctx.options.mode]
    wanted = [_nowhere(mode, _own_address(listen)) for mode in modes]
    if wanted != list(ctx.options.mode):
        ctx.options.update(mode=wanted)
    for _ in range(int(PATIENCE_S / POLL_S)):
        servers = list(ctx.master.addons.get("proxyserver").servers)
        if servers and all(leads_nowhere(s.mode) and s.is_running for s in servers):
            break
        await asyncio.sleep(POLL_S)
    else:
        raise TakeoverFailed("the listener did not take the gateway's mode")
    public = [a[0] for s in servers for a in s.listen_addrs if not is_loopback(a[0])]
    if public and not may_be_public:
        # In clear text anybody on the way can read a proof of payment and spend it first.
        cure = "a loopback address, or `tls`, or `trusted_proxies`, or `allow_insecure: true`"
        raise TakeoverFailed(f"listening on {public[0]} in clear text; what may be: {cure}")
    for handler in list(ctx.master.addons.get("proxyserver").connections.values()):
        _cut(handler)


def _own_address(listen: Listen | None) -> Listen | None:
    """Return what the file says of the address, with what the user's own flags say of it."""
    options = ctx.options
    if listen is None or (options.listen_port is not None and options.listen_host):
        return None
    if options.listen_port is None:
        return listen
    # A port alone: mitmproxy would open it to every network.
    return Listen(listen.host, options.listen_port)


def _nowhere(mode: mode_specs.ProxyMode, listen: Listen | None) -> str:
    host, port = mode.custom_listen_host, mode.custom_listen_port
    if port is None and listen is not None:
        host, port = listen.host, listen.port
    if port is None:
        return NOWHERE
    return f"{NOWHERE}@{host}:{port}" if host else f"{NOWHERE}@{port}"


def _cut(handler: Any) -> None:
    if leads_nowhere(handler.client.proxy_mode):
        return
    log.info("closing a connection that came in before the gateway was up")
    io = handler.transports.get(handler.client)
    if io is not None and io.handler is not None:
        handler.close_connection(handler.client)
