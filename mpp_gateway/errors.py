"""The gateway's own problems: what can go wrong around a payment, split by who can mend it.

The slug is wire format and never changes; the class name is ours. The problems of the payment
protocol itself are in `protocol.problems`.
"""

from dataclasses import dataclass
from typing import Any

from mpp_gateway.protocol.problems import Problem


class GatewayProblem(Problem):
    """A refusal or failure of the gateway, written as a problem document (RFC 9457)."""

    type_base = "urn:mpp-gateway:problem:"


# --- the caller can mend it: 4xx ---------------------------------------------------------------


class BadTarget(GatewayProblem):
    """The request target is not one that every server reads the same way."""

    slug, title, status = "bad-target", "Bad target", 400


class MalformedPayment(GatewayProblem):
    """An x402 payment is not what its specification says; nothing of it was looked up."""

    slug, title, status = "malformed-payment", "Malformed payment", 400


class AmbiguousCredentials(GatewayProblem):
    """More than one payment credential came with one request; we do not choose for the buyer."""

    slug, title, status = "ambiguous-credentials", "Ambiguous credentials", 400


class Forbidden(GatewayProblem):
    """The request may not be made, whoever pays for it."""

    slug, title, status = "forbidden", "Forbidden", 403


class Unpriced(GatewayProblem):
    """The call has no price and is not named as free: with `strict_pricing` nobody gets it."""

    slug, title, status = "unpriced", "Unpriced", 403


class NotFound(GatewayProblem):
    """No service or no route of the configuration has this path."""

    slug, title, status = "not-found", "Not found", 404


class MethodNotAllowed(GatewayProblem):
    """The path is known, but not with this method; `allow` lists the methods it has, sorted."""

    slug, title, status = "method-not-allowed", "Method not allowed", 405

    def __init__(self, allow: tuple[str, ...] = (), detail: str = "", **more: Any) -> None:
        super().__init__(detail, **more)
        self.allow = allow


class HeadTimeout(GatewayProblem):
    """The request did not arrive in the time given to it."""

    slug, title, status = "request-timeout", "Request timeout", 408


class PaymentInProgress(GatewayProblem):
    """Another request with the same payment is under way."""

    slug, title, status = "payment-in-progress", "Payment in progress", 409


class AnswerNotKept(GatewayProblem):
    """The payment has bought its answer, which is not kept for this `Idempotency-Key`."""

    slug, title, status = "answer-not-kept", "Answer not kept", 409


class IdempotencyKeyReused(GatewayProblem):
    """Another request was answered under the same `Idempotency-Key` and payment."""

    slug, title, status = "idempotency-key-reused", "Idempotency key reused", 409


class PriceAboveMaximum(GatewayProblem):
    """The call costs more than the request's own `X-Max-Price`."""

    slug, title, status = "price-above-maximum", "Price above maximum", 412


class ContentTooLarge(GatewayProblem):
    """The request body is longer than the route takes."""

    slug, title, status = "content-too-large", "Content too large", 413


class TooManyRequests(GatewayProblem):
    """The caller leaves more requests unpaid than it may."""

    slug, title, status = "too-many-requests", "Too many requests", 429


class HeadTooLarge(GatewayProblem):
    """The request's header fields are longer than the gateway takes (RFC 6585 section 5)."""

    slug, title, status = "head-too-large", "Header fields too large", 431


# --- nobody outside can mend it: 5xx, and no charge may survive ---------------------------------


class GatewayFault(GatewayProblem):
    """A fault of the gateway itself; the request was refused."""

    slug, title, status = "gateway-fault", "Gateway fault", 500


class UpstreamRefused(GatewayProblem):
    """The upstream does not accept connections."""

    slug, title, status = "upstream-refused", "Upstream refused", 502


class UpstreamTlsFailed(GatewayProblem):
    """The upstream's TLS handshake or certificate failed."""

    slug, title, status = "upstream-tls-failed", "Upstream TLS failed", 502


class UpstreamCut(GatewayProblem):
    """The upstream closed the connection before its answer was complete."""

    slug, title, status = "upstream-cut", "Upstream cut", 502


class UpstreamMalformed(GatewayProblem):
    """The upstream's answer is not HTTP."""

    slug, title, status = "upstream-malformed", "Upstream malformed", 502


class UpstreamSwitchedProtocols(GatewayProblem):
    """The upstream answered 101 although nobody asked: a tunnel past the gate."""

    slug, title, status = "upstream-switched-protocols", "Upstream switched protocols", 502


class RailUnavailable(GatewayProblem):
    """The payment network cannot be reached; nothing was charged."""

    slug, title, status = "rail-unavailable", "Payment network unavailable", 503


class SettlementUnknown(GatewayProblem):
    """Money may have moved; we ask the network, and the buyer must not pay again."""

    slug, title, status = "settlement-unknown", "Settlement unknown", 503


class NotReady(GatewayProblem):
    """The gateway starts, stops or lacks something that it needs to serve."""

    slug, title, status = "not-ready", "Not ready", 503


class UpstreamFailed(GatewayProblem):
    """The upstream answered with a server error, after the call was paid for."""

    slug, title, status = "upstream-failed", "Upstream failed", 502


class UpstreamTimedOut(GatewayProblem):
    """The upstream did not answer in the time given to it."""

    slug, title, status = "upstream-timed-out", "Upstream timed out", 504


# --- the operator can mend it, before the start -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a configuration file, and what would be right.

    With `found`, `message` names what is expected instead; without it, `message` stands alone.
    Neither ever holds a secret or a value that came from the environment.
    """

    file: str
    line: int
    path: str
    message: str
    found: str | None = None

    def __str__(self) -> str:
        where = (
            f"{self.file}:{self.line}: {self.path}: " if self.path else f"{self.file}:{self.line}: "
        )
        if self.found is None:
            return f"{where}{self.message}"
        return f"{where}found {self.found}, expected {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; `mistakes` has every reason, in the order of the lines."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__(mistakes)
        self.mistakes = mistakes

    def __str__(self) -> str:
        return "\n".join(str(mistake) for mistake in self.mistakes)
