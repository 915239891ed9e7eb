"""What the other side is told when something does not hold: RFC 9457 problems, one class a remedy.

The slug is wire format and never changes; the class name is ours. Types and statuses: MPP core
draft, sections "Status Codes" and "Error Codes"; `invalid-payload` and `bad-request` are what the
SDKs add.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class ParseError(ValueError):
    """Text that somebody else wrote (a challenge, a receipt) does not parse: the client's role."""


class Problem(Exception):
    """A refusal with its public problem document; every leaf fixes slug, title and status.

    `detail` and `hint` are sent to the client and so never hold secrets, credentials or addresses
    of upstreams; `private` is for our log only and appears in no document.
    """

    slug: ClassVar[str]
    title: ClassVar[str]
    status: ClassVar[int] = 402
    type_base: ClassVar[str] = "https://paymentauth.org/problems/"

    def __init__(
        self,
        detail: str = "",
        *,
        private: str = "",
        hint: str | None = None,
        retry_after_s: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.private = private
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.extra: Mapping[str, Any] = extra or {}

    @property
    def type_uri(self) -> str:
        """The problem's type, a URI that names the remedy."""
        return self.type_base + self.slug

    def document(self, challenge_id: str | None = None) -> dict[str, Any]:
        """Return the members of `application/problem+json` (RFC 9457 section 3)."""
        document: dict[str, Any] = {
            "type": self.type_uri,
            "title": self.title,
            "status": self.status,
            "detail": self.detail or f"{self.title}.",
        }
        if self.hint is not None:
            document["hint"] = self.hint
        if challenge_id is not None:
            document["challengeId"] = challenge_id
        for name, value in self.extra.items():
            # An extension member never replaces a standard one: clients act on `type` and `status`.
            document.setdefault(name, value)
        return document


class PaymentRequired(Problem):
    """No credential came with the request; the answer carries the offers."""

    slug, title = "payment-required", "Payment Required"


class MalformedCredential(Problem):
    """The credential is not base64url, not JSON, too large, or lacks members."""

    slug, title = "malformed-credential", "Malformed Credential"


class InvalidChallenge(Problem):
    """The challenge is not ours, was issued for another route, or has been consumed."""

    slug, title = "invalid-challenge", "Invalid Challenge"


class PaymentExpired(Problem):
    """The challenge was ours and its time is over, or that of the payment.

    `at_s` is the unix time since when; None where the challenge says it.
    """

    slug, title = "payment-expired", "Payment Expired"

    def __init__(self, detail: str = "", *, at_s: int | None = None, **more: Any) -> None:
        super().__init__(detail, **more)
        self.at_s = at_s


class VerificationFailed(Problem):
    """The proof of payment does not hold, or settling it failed for certain."""

    slug, title = "verification-failed", "Verification Failed"


class PaymentInsufficient(Problem):
    """The proof holds and pays less than the route costs."""

    slug, title = "payment-insufficient", "Payment Insufficient"


class PaymentActionRequired(Problem):
    """The payer's bank wants something of the payer; nothing moved, and a new payment is needed."""

    slug, title = "payment-action-required", "Payment Action Required"


class MethodUnsupported(Problem):
    """The credential names a payment method that this route does not take."""

    slug, title, status = "method-unsupported", "Method Unsupported", 400


class InvalidPayload(Problem):
    """The credential is well formed and its payload is not what the method asks for."""

    slug, title = "invalid-payload", "Invalid Payload"


class BadRequest(Problem):
    """The request contradicts itself, for instance by carrying two credentials."""

    slug, title, status = "bad-request", "Bad Request", 400
