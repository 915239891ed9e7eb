"""A payment that can be presented again: its credential, its key, and the one place for them.

Whoever has it can have the call that was paid for: a mistyped or hostile URL must never see it.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from yarl import URL

from mpp_gateway.cli.exits import USAGE
from mpp_gateway.cli.outcome import CREDENTIAL_VARIABLE, IDEMPOTENCY_VARIABLE, ORIGIN_VARIABLE
from mpp_gateway.cli.output import CommandFailed
from mpp_gateway.config.values import is_loopback
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential, payment_tokens
from mpp_gateway.protocol.problems import Problem

_KEY = re.compile(r"[!-~]{1,255}\Z")


@dataclass(frozen=True, slots=True)
class Payment:
    """A credential as it is presented, at one place and under one `Idempotency-Key`.

    Only under that key is an answer that was lost on its way given again. `key` is None where a
    field of the caller's own carries one.
    """

    credential: Credential
    origin: str
    key: str | None

    @property
    def field(self) -> str:
        """The field that the seller wants the credential in."""
        return field_of(self.credential.challenge)

    def fields(self) -> dict[str, str]:
        """Return the header fields that present it."""
        key = {} if self.key is None else {"Idempotency-Key": self.key}
        return {self.field: self.credential.format(), **key}

    def variables(self) -> str:
        """Return it for the environment of the same command, as a shell reads it."""
        lines = [f"{ORIGIN_VARIABLE}={shlex.quote(self.origin)} \\"]
        if self.key is not None:
            lines.append(f"{IDEMPOTENCY_VARIABLE}={shlex.quote(self.key)} \\")
        return "\n".join([*lines, f"{CREDENTIAL_VARIABLE}='{self.credential.format()}'"])


def field_of(challenge: Challenge) -> str:
    """Return the field that a credential for `challenge` goes in."""
    return challenge.header or "Authorization"


def kept_key(environ: Mapping[str, str]) -> str | None:
    """Return the key under which a kept credential was presented. Errors: `CommandFailed`."""
    key = environ.get(IDEMPOTENCY_VARIABLE)
    if key and not _KEY.match(key):
        message = f"{IDEMPOTENCY_VARIABLE} is not 1 to 255 visible ASCII characters"
        raise CommandFailed(message, USAGE)
    return key or None


def check_clear_text(url: str, code: int, *, is_allowed: bool) -> None:
    """Refuse to present a payment in clear text beyond this machine unless that is meant.

    Whoever is on the way could have the call that was paid for, or name another payee in the 402.
    """
    if not is_allowed and not _is_covered(URL(url)):
        raise CommandFailed(
            f"{origin_of(url)} is clear text: whoever is on the way can take the payment; nothing"
            " was sent or paid. Use https://, or --insecure if that is meant",
            code,
        )


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
        if _names(realm, url) and _is_covered(url):
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


def _is_covered(url: URL) -> bool:
    return url.scheme == "https" or is_loopback(url.raw_host or "")


def _place(url: URL) -> tuple[str, str, int | None]:
    return url.scheme, (url.raw_host or "").lower(), url.port


def _names(realm: str, url: URL) -> bool:
    """Tell whether a realm is the host of `url`, or its host and port."""
    host = (url.raw_host or "").lower()
    bracketed = f"[{host}]" if ":" in host else host
    return realm.lower() in {host, bracketed, f"{bracketed}:{url.port}"}
