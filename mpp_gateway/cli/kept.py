"""A credential kept from an earlier payment, and the one place where it may be presented.

Whoever has it can have the call that was paid for: a mistyped or hostile URL must never see it.
"""

from collections.abc import Mapping

from yarl import URL

from mpp_gateway.cli.exits import USAGE
from mpp_gateway.cli.outcome import CREDENTIAL_VARIABLE, ORIGIN_VARIABLE
from mpp_gateway.cli.output import CommandFailed
from mpp_gateway.config.values import is_loopback
from mpp_gateway.protocol.credential import Credential, payment_tokens
from mpp_gateway.protocol.problems import Problem


def kept_credential(environ: Mapping[str, str], url: str) -> Credential | None:
    """Return the credential that is to be presented at `url`, if there is one in `environ`.

    Errors: `CommandFailed` for one that cannot be read, or that is not for `url`.
    """
    field = environ.get(CREDENTIAL_VARIABLE)
    if not field:
        return None
    try:
        (token,) = payment_tokens([field])
        credential = Credential.parse(token)
    except (Problem, ValueError):
        message = f"{CREDENTIAL_VARIABLE} is no credential as this command prints it"
        raise CommandFailed(f"{message} (unset it to pay anew)", USAGE) from None
    _check_place(credential, environ.get(ORIGIN_VARIABLE), URL(url))
    return credential


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL: where its credential was paid for."""
    return str(URL(url).origin())


def _check_place(credential: Credential, origin: str | None, url: URL) -> None:
    """Refuse a URL at another place than the credential's.

    The origin that was noted with the payment is that place. Without it the realm is, which the
    seller has signed: it is the seller's host unless the seller chose another name.
    """
    if origin:
        noted = _noted(origin)
        if _place(noted) == _place(url):
            return
        issuer = f"was paid for at {noted.origin()}"
    else:
        realm = credential.challenge.realm
        # A realm does not say that clear text is meant.
        if _names(realm, url) and (url.scheme == "https" or is_loopback(url.raw_host or "")):
            return
        issuer = f"was issued by {realm!r}"
    raise CommandFailed(
        f"{CREDENTIAL_VARIABLE} {issuer}, and not for {url.origin()}; nothing was sent. Mend the"
        f" URL, or name the place where it was paid for in {ORIGIN_VARIABLE}, such as"
        " https://api.example.com",
        USAGE,
    )


def _noted(origin: str) -> URL:
    try:
        url = URL(origin)
        is_origin = url.scheme in {"http", "https"} and bool(url.host)
    except ValueError:
        is_origin = False
    if not is_origin:
        raise CommandFailed(f"{ORIGIN_VARIABLE} is no http:// or https:// URL", USAGE)
    return url


def _place(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, (url.raw_host or "").lower(), url.port


def _names(realm: str, url: URL) -> bool:
    """Tell whether a realm is the host of `url`, or its host and port."""
    host = (url.raw_host or "").lower()
    bracketed = f"[{host}]" if ":" in host else host
    return realm.lower() in {host, bracketed, f"{bracketed}:{url.port}"}
