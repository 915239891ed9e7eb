"""Reading a configuration file: all of it is checked, every mistake reported, then it is frozen."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path as FilePath
from types import MappingProxyType
from urllib.parse import urlsplit

from pydantic import SecretStr

from mpp_gateway.config.context import Context, merge_timeouts
from mpp_gateway.config.document import MAX_BYTES, Document, Path, read_document
from mpp_gateway.config.methods import KINDS, METHOD_NAME, EvmMethod, Method
from mpp_gateway.config.model import (
    GatewayConfig,
    Idempotency,
    Limits,
    Listen,
    PostgresStore,
    Service,
    SqliteStore,
    Store,
    Timeouts,
    Tls,
)
from mpp_gateway.config.report import check, did_you_mean, show
from mpp_gateway.config.services import resolve_services
from mpp_gateway.config.settings import RootSettings
from mpp_gateway.config.values import is_host, is_ip, is_loopback
from mpp_gateway.errors import ConfigError, Mistake
from mpp_gateway.protocol.cors import Cors

PORT_MAX = 65_535
SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")
_REALM = re.compile(
    r"[!#-\[\]-{}~]+\Z"
)  # quoted-string without escapes; "|" divides the signed slots
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})\Z")


def load(path: FilePath, environ: Mapping[str, str]) -> GatewayConfig:
    """Read and check a configuration file; ConfigError has every mistake in it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        # An editor's byte order mark is no part of the text.
        text = content.decode("utf-8-sig")
    except OSError as error:
        reason = f"cannot be read: {error.strerror or type(error).__name__}"
        raise ConfigError((Mistake(str(path), 1, "", reason),)) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = "this is not UTF-8 text; save the file as UTF-8"
        raise ConfigError((Mistake(str(path), line, "", message),)) from None
    return load_text(text, str(path), environ)


def load_text(text: str, filename: str, environ: Mapping[str, str]) -> GatewayConfig:
    """Check the text of a configuration file; `filename` is what messages call it."""
    document = read_document(text, filename, environ)
    root = check(RootSettings, document.data, document, ())
    if root is None:
        raise ConfigError(_sorted(document.mistakes))
    warnings: list[Mistake] = []
    methods = _methods(document, root, warnings)
    timeouts = merge_timeouts(Timeouts(), root.timeouts)
    context = Context(document, root, methods, timeouts)
    _check_method_urls(context)
    _check_transfers(context)
    services, about_services = resolve_services(context)
    listen = _listen(context)
    config = GatewayConfig(
        file=filename,
        realm=_realm(context, listen),
        secret_keys=_secret_keys(document, root),
        services=MappingProxyType(services),
        methods=MappingProxyType({n: m for n, m in methods.items() if m is not None}),
        title=root.title,
        description=root.description,
        public_url=_public_url(context),
        base_path=root.base_path,
        listen=listen,
        tls=_tls(context),
        trusted_proxies=root.trusted_proxies,
        allow_insecure=root.allow_insecure,
        store=_store(context),
        currency=root.currency,
        timeouts=timeouts,
        limits=Limits(**root.limits.model_dump()),
        idempotency=Idempotency(**root.idempotency.model_dump()),
        cors=Cors(frozenset(root.cors.origins), root.cors.max_age_s) if root.cors else None,
        payment_page=root.payment_page,
        strict_pricing=root.strict_pricing,
        challenge_ttl_s=root.challenge_ttl_s,
        credit_s=root.credit_s,
        categories=root.categories,
        docs_llms_url=root.docs_llms_url,
        warnings=_sorted(
            [*warnings, *about_services, *context.withheld, *_about_gas(context, services)]
        ),
    )
    if document.mistakes:
        # `from None`, and nothing of the document in the exception: a traceback shows no secret.
        raise ConfigError(_sorted(document.mistakes)) from None
    return config


def _sorted(mistakes: list[Mistake]) -> tuple[Mistake, ...]:
    return tuple(sorted(dict.fromkeys(mistakes), key=lambda mistake: mistake.line))


def _methods(
    document: Document, root: RootSettings, warnings: list[Mistake]
) -> dict[str, Method | None]:
    methods: dict[str, Method | None] = {}
    for name, value in root.methods.items():
        path: Path = ("methods", name)
        methods[name] = None
        if not METHOD_NAME.match(name):
            document.add(path, "a method's name has small letters, digits, '_' and '-'")
        if not isinstance(value, dict):
            document.add(path, "a mapping of keys to values", show(document, path))
            continue
        kind = value.get("kind", name)
        model = KINDS.get(kind) if isinstance(kind, str) else None
        if model is None:
            _refuse_kind(document, name, value)
            continue
        settings = {key: inner for key, inner in value.items() if key != "kind"}
        method = check(model, settings, document, path)
        if document.is_sound(*path):
            methods[name] = method
        if isinstance(method, EvmMethod):
            line = document.line(path)
            warnings += [
                Mistake(document.file, line, f"methods.{name}", message)
                for message in method.doubts()
            ]
    return methods


def _about_gas(context: Context, services: Mapping[str, Service]) -> list[Mistake]:
    """Warn of methods that sell calls, pay the gas themselves, and would pay any price for it."""
    routes = (route for service in services.values() for route in service.routes)
    sold = {price.method_name for route in routes for price in route.prices}
    message = "without `submit.max_fee_gwei` a call may cost more for gas than it earns"
    return [
        Mistake(context.document.file, context.document.line(path), f"methods.{name}", message)
        for name, method in context.methods.items()
        if name in sold and isinstance(method, EvmMethod)
        if method.submit.private_key and method.max_fee_wei is None
        for path in [("methods", name)]
    ]


def _refuse_kind(document: Document, name: str, value: dict[str, object]) -> None:
    path: Path = ("methods", name, "kind")
    if "kind" in value:
        hint = did_you_mean(str(value["kind"]), KINDS)
        document.add(path, f"a kind of payment method; {hint}", show(document, path))
    else:
        message = f"`kind` is missing, and `{name}` is no kind; {did_you_mean(name, KINDS)}"
        document.add(path[:2], message)


def _check_method_urls(context: Context) -> None:
    for name, method in context.methods.items():
        for key, url in (method.urls() if method is not None else {}).items():
            parts = (int(part) if part.isdigit() else part for part in key.split("."))
            context.check_clear_text(url, ("methods", name, *parts))


def _check_transfers(context: Context) -> None:
    """Refuse plain transfers as payments in a token whose transfers pay by their memo as well.

    The memo is no part of a plain transfer: shown as both, one of them would buy two calls.
    """
    methods = [(name, method) for name, method in context.methods.items() if method is not None]
    by_memo = {method.asset.code: name for name, method in methods if method.kind == "tempo"}
    for name, method in methods:
        other = by_memo.get(method.asset.code)
        if other is not None and isinstance(method, EvmMethod) and method.takes_transfers:
            message = (
                f"types without `hash`: `{other}` is paid with the same token, by transfers too"
            )
            context.fail(("methods", name, "credential_types"), message)


def _secret_keys(document: Document, root: RootSettings) -> tuple[SecretStr, ...]:
    if not root.secret_key and document.is_sound("secret_key"):
        document.add(("secret_key",), "at least one key of 32 bytes is needed to sign challenges")
    return root.secret_key


def _listen(context: Context) -> Listen:
    text = context.root.listen
    match = _LISTEN.match(text)
    host = (match[1] or match[2]) if match else ""
    if (
        match is None
        or int(match[3]) > PORT_MAX
        or not is_host(host)
        or (match[1] and not is_ip(host))
    ):
        context.fail(("listen",), "host:port such as 127.0.0.1:4402 or [::1]:4402")
        return Listen()
    listen = Listen(host, int(match[3]))
    is_covered = context.document.has("tls") or context.document.has("trusted_proxies")
    if not is_loopback(host) and not is_covered and not context.root.allow_insecure:
        # In clear text anybody on the way can read a proof of payment and spend it first.
        cure = "a loopback address, or `tls`, or `trusted_proxies`, or `allow_insecure: true`"
        context.fail(("listen",), cure)
    return listen


def _realm(context: Context, listen: Listen) -> str:
    root = context.root
    if root.realm is not None:
        if not _REALM.match(root.realm):
            context.fail(("realm",), 'a host name: visible ASCII without quotes, "\\" and "|"')
        return root.realm
    if root.public_url is not None:
        return urlsplit(root.public_url).hostname or listen.host
    return listen.host


def _public_url(context: Context) -> str | None:
    url = context.root.public_url
    if url is not None:
        context.check_clear_text(url, ("public_url",))
    return url


def _tls(context: Context) -> Tls | None:
    settings = context.root.tls
    if settings is None:
        return None
    # Heavy, and for TLS alone.
    from mpp_gateway.config.certificate import flaws  # noqa: PLC0415

    tls = Tls(FilePath(settings.cert), FilePath(settings.key))
    for key, expected in flaws(tls, datetime.now(UTC)):
        context.fail(("tls", key), expected)
    return tls


def _store(context: Context) -> Store:
    text = context.root.store
    if text.startswith(POSTGRES):
        parts = urlsplit(text)
        if not (parts.hostname and parts.path.strip("/")):
            context.fail(("store",), "postgresql://user@host/database")
        return PostgresStore(SecretStr(text))
    name = text.removeprefix(SQLITE)
    if not text.startswith(SQLITE):
        context.fail(("store",), "sqlite:///path, or postgresql://user@host/database")
    elif name in {"", ":memory:"} or "?" in name:
        # In memory a restart forgets which proofs were used: each could be spent again.
        context.fail(("store",), "sqlite:///path with the path of a file")
    return SqliteStore(FilePath(name))
