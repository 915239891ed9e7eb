"""Which header fields a service's upstream gets from us: our key, and what else is configured."""

from base64 import b64encode
from collections.abc import Iterable, Mapping

from pydantic import SecretStr

from mpp_gateway.config.context import Context
from mpp_gateway.config.document import Path
from mpp_gateway.config.model import Route
from mpp_gateway.config.presets import Preset
from mpp_gateway.config.settings import AuthSettings, RouteSettings, ServiceSettings

type Fields = tuple[tuple[str, SecretStr], ...]


def check_service_auth(
    context: Context, service: ServiceSettings, preset: Preset | None, path: Path
) -> None:
    """Refuse a key that nothing would send, and a preset that has no key to send."""
    document = context.document
    has_key, has_auth = document.has(*path, "api_key"), document.has(*path, "auth")
    if has_key and not document.has(*path, "preset"):
        document.add((*path, "api_key"), "has no effect without `preset`; write `auth` instead")
    if has_key and has_auth:
        document.add((*path, "auth"), "has no effect beside `api_key`; give one of the two")
    if preset is not None and not has_key and not has_auth:
        document.add(path, f"`api_key` is missing; it is sent as {preset.key_form}")
    auth = _auth_fields(service, preset)
    check_headers(context, service.headers, auth, (*path, "headers"))


def check_own_auth(context: Context, routes: Iterable[Route], path: Path) -> None:
    """Refuse a key of ours in the field that is the client's own."""
    ours = {name.lower() for route in routes for name, _ in route.injected}
    if "authorization" in ours:
        context.document.add(
            (*path, "requires_auth"),
            "the client's `Authorization` would be replaced by the one that is set here;"
            " send your key in another field, or leave `requires_auth` out",
        )


def check_headers(
    context: Context, headers: Mapping[str, SecretStr], auth: Fields, path: Path
) -> None:
    """Refuse names that are given twice: which value counts would be up to the upstream."""
    seen = {name.lower() for name, _ in auth}
    for name in headers:
        if name.lower() in seen:
            context.document.add((*path, name), "this field is set twice; names have no case")
        seen.add(name.lower())


def fields_for(service: ServiceSettings, route: RouteSettings, preset: Preset | None) -> Fields:
    """Return the fields to inject on a route; each level replaces what the one above it says."""
    auth = form_auth(route.auth) if route.auth is not None else _auth_fields(service, preset)
    merged = {name.lower(): (name, value) for name, value in auth}
    for headers in (service.headers, route.headers):
        for name, value in headers.items():
            if headers is service.headers and route.auth is not None and name.lower() in merged:
                continue  # the route's own key, not the service's field of the same name
            merged[name.lower()] = (name, value)
    return tuple(merged.values())


def form_auth(auth: AuthSettings) -> Fields:
    """Return the field that an `auth` entry stands for."""
    if auth.bearer is not None:
        return (("Authorization", SecretStr(f"Bearer {auth.bearer.get_secret_value()}")),)
    if auth.header is not None:
        return ((auth.header.name, auth.header.value),)
    if auth.basic is not None:
        pair = f"{auth.basic.username}:{auth.basic.password.get_secret_value()}"
        return (("Authorization", SecretStr("Basic " + b64encode(pair.encode()).decode("ascii"))),)
    return ()


def _auth_fields(service: ServiceSettings, preset: Preset | None) -> Fields:
    if service.auth is not None:
        return form_auth(service.auth)
    if preset is not None and service.api_key is not None:
        value = preset.auth_value(service.api_key.get_secret_value())
        return ((preset.auth_header, SecretStr(value)),)
    return ()
