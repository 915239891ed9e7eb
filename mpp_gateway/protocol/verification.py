"""What must hold for an echoed challenge before anything looks at the proof of payment."""

from collections.abc import Container

from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.problems import InvalidChallenge, ParseError, PaymentExpired
from mpp_gateway.protocol.timestamps import parse_rfc3339


def check_echo(
    credential: Credential,
    *,
    keys: ChallengeKeys,
    realm: str,
    method: str,
    intent: str,
    now_s: int,
    requests: Container[str] | None = None,
) -> None:
    """Return if we issued the echoed challenge, for this realm, method and intent, still open.

    `requests`, when given, are the encoded requests that the route offers now; the echo must carry
    one of them. Raises InvalidChallenge (also when there is no expiry: it fails closed), or
    PaymentExpired from the second on that `expires` names. Route and body are the caller's to
    compare. Order: MPP core draft "Verification", as the SDKs have it.
    """
    challenge = credential.challenge
    # First of all: without it every other field is the client's own claim about our price.
    if not keys.verify(challenge):
        raise InvalidChallenge("The challenge was not issued here or was altered.")
    if challenge.realm != realm:
        raise InvalidChallenge("The challenge was issued for another realm.")
    if challenge.method != method or challenge.intent != intent:
        raise InvalidChallenge("The challenge was issued for another method or intent.")
    if requests is not None and challenge.request not in requests:
        raise InvalidChallenge("The challenge was issued for another price or recipient.")
    # A challenge that never expires could be paid at last year's price.
    if challenge.expires is None:
        raise InvalidChallenge("The challenge has no expiry.")
    try:
        expires_s = parse_rfc3339(challenge.expires)
    except ParseError as error:
        raise InvalidChallenge("The challenge's expiry is not a date-time.") from error
    if now_s >= expires_s:
        raise PaymentExpired("The challenge has expired; pay a fresh one.")
