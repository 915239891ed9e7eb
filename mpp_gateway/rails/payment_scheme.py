"""The `Payment` HTTP authentication scheme, as every MPP rail uses it (draft-httpauth-payment)."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mpp_gateway.errors import AmbiguousCredentials
from mpp_gateway.protocol import digest, jcs
from mpp_gateway.protocol.base64url import encode as base64url
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.credential import Credential, payment_tokens
from mpp_gateway.protocol.messages import Headers, RequestHead
from mpp_gateway.protocol.problems import InvalidChallenge, ParseError
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.protocol.timestamps import format_rfc3339
from mpp_gateway.protocol.verification import check_echo
from mpp_gateway.rails.base import Binding, Offer

ENTROPY_BYTES = 16
DESCRIPTION_CHARS_MAX = 500
"""A client reads a head of 16 KiB, in which several offers repeat these words, escaped."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def scope_of(
    store: str,
    service: str,
    route: str,
    method: str,
    path: str,
    query: str | None,
    body_digest: str | None = None,
) -> str:
    """Return the digest that ties a credential to one request and to the store that remembers it.

    Without the store another one would take what this one has sold already, once more. An absent
    query and an empty one differ, as they do for the upstream. `body_digest` is there where the
    route binds the body: a payment without a challenge, once it is a credit, has nothing else to
    bind it.
    """
    asked = "-" if query is None else f"?{query}"
    parts = (store, service, route, method, path, asked, *((body_digest,) if body_digest else ()))
    # Lengths are hashed with the parts: otherwise two requests could share one scope, and the
    # credential of the cheap one would buy the dear one.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return base64url(hashlib.sha256(text.encode("latin-1", "backslashreplace")).digest())


def _for_a_field(words: str | None) -> str | None:
    """Return a description as a header field can carry it: on one line, and no page long.

    In a configuration it may have lines and paragraphs; refused here, the call could not be sold.
    """
    if words is None:
        return None
    line = _CONTROL.sub("", " ".join(words.split()))
    return line if len(line) <= DESCRIPTION_CHARS_MAX else line[: DESCRIPTION_CHARS_MAX - 1] + "…"


PAYMENT_AUTHORIZATION = "Payment-Authorization"
"""Carries the credential where `Authorization` is the upstream's (challenge parameter `header`)."""


def paying_head(head: RequestHead, header: str | None) -> RequestHead:
    """Return `head` as a rail reads it: what stands in `header` as if it stood in `Authorization`.

    What the client says to the upstream there is no payment, and no rail gets to see it.
    """
    if header is None:
        return head
    others = tuple((n, v) for n, v in head.headers if n.lower() != "authorization")
    moved = tuple(("Authorization", value) for value in head.get_all(header))
    return replace(head, headers=(*others, *moved))


def credential_tokens(head: RequestHead) -> list[str]:
    """Return the `Payment` credentials of a request, wherever the scheme may carry them."""
    values = head.get_all("authorization")
    return payment_tokens(values) if values else []


def echoed_request(credential: Credential) -> Mapping[str, Any]:
    """Return the request that a credential echoes, nothing checked; empty if it is none at all."""
    try:
        return credential.challenge.request_object
    except ParseError:
        return {}


@dataclass(frozen=True, slots=True)
class PaymentScheme:
    """Issues challenges and checks what comes back; holds the keys, touches no money."""

    keys: ChallengeKeys = field(repr=False)
    ttl_s: int = 300

    def challenge(self, offer: Offer, binding: Binding, now_s: int, entropy: bytes) -> Headers:
        """Return the `WWW-Authenticate` field for `offer`. `entropy` is 16 fresh random bytes.

        Without the random bytes two buyers asking in the same second get one id, and the first
        to pay locks the other one out: an id is used once.
        """
        opaque = jcs.dumps({"nonce": base64url(entropy), "scope": binding.scope})
        challenge = self.keys.issue(
            realm=binding.realm,
            method=offer.method,
            intent=offer.intent,
            request=offer.request_encoded,
            expires=format_rfc3339(now_s + self.ttl_s),
            digest=binding.body_digest,
            opaque=base64url(opaque),
            description=_for_a_field(offer.description),
            header=binding.header,
        )
        return (("WWW-Authenticate", challenge.format()),)

    def credential(self, head: RequestHead, method: str, intent: str) -> Credential | None:
        """Return the request's credential if it is for `method` and `intent`, None otherwise.

        Errors: `AmbiguousCredentials` (400) for two of them, `MalformedCredential` (402).
        """
        tokens = credential_tokens(head)
        if not tokens:
            return None
        if len(tokens) > 1:
            raise AmbiguousCredentials("Send one Payment credential per request.")
        credential = Credential.parse(tokens[0])
        challenge = credential.challenge
        if (challenge.method, challenge.intent) != (method, intent):
            return None
        return credential

    def check(
        self, credential: Credential, offers: tuple[Offer, ...], binding: Binding, now_s: int
    ) -> Offer:
        """Return the offer that `credential` takes up, after every check that needs no money.

        The order is section 1.14 of the protocol digest: id, realm, method and intent, then the
        request against what this route would charge now, the scope, the body and the expiry.
        Errors: `InvalidChallenge`, `PaymentExpired`.
        """
        challenge = credential.challenge
        check_echo(
            credential,
            keys=self.keys,
            realm=binding.realm,
            method=challenge.method,
            intent=challenge.intent,
            now_s=now_s,
        )
        offer = next(
            (
                offer
                for offer in offers
                if (offer.method, offer.intent, offer.request_encoded)
                == (challenge.method, challenge.intent, challenge.request)
            ),
            None,
        )
        if offer is None:
            raise InvalidChallenge("The challenge is not one that this route offers.")
        # This line is what keeps a credential of one route, verb or query from buying another.
        if challenge.opaque_object.get("scope") != binding.scope:
            raise InvalidChallenge("The challenge was issued for another request.")
        self._check_digest(challenge.digest, binding)
        return offer

    @staticmethod
    def _check_digest(echoed: str | None, binding: Binding) -> None:
        if echoed is None and binding.body_digest is None:
            return
        if echoed is None or binding.body_digest is None or echoed != binding.body_digest:
            raise InvalidChallenge("The challenge was issued for another request body.")

    @staticmethod
    def body_digest(body: bytes) -> str:
        """Return the digest of a request body in RFC 9530 form."""
        return digest.content_digest(body)

    @staticmethod
    def receipt(method: str, reference: str, now_s: int, extra: Mapping[str, object]) -> Headers:
        """Return the `Payment-Receipt` field of a settled payment."""
        receipt = Receipt(
            method=method,
            reference=reference,
            status="success",
            timestamp=format_rfc3339(now_s),
            extra=extra,
        )
        return (("Payment-Receipt", receipt.format()),)
