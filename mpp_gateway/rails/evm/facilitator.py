"""Settling through an x402 facilitator: somebody else's node and gas, over HTTP.

Wire form: x402 version 2, scheme `exact`, transfer method `eip3009`.
"""

import re
from collections.abc import Mapping
from typing import Any

import aiohttp

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.problems import (
    ParseError,
    PaymentInsufficient,
    Problem,
    VerificationFailed,
)
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm.inspection import Inspector
from mpp_gateway.rails.evm.request import Attempt, EvmSettings, Payment
from mpp_gateway.rails.jsonrpc import was_never_sent

ANSWER_MAX = 256 * 1024
X402_VERSION = 2

_CODE = re.compile(r"[a-z0-9_]{1,80}")
_TX_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_OPEN = ("pending", "nonce", "already", "used", "timeout", "timed_out", "unexpected", "unknown")
"""Words of reasons after which money may have moved, or may still move."""
_DEFINITE = ("invalid_", "insufficient", "unsupported_", "missing_", "network_mismatch",
             "transaction_failed", "asset_not_deployed", "permit2_")  # fmt: skip
_NOT_PROCESSED = frozenset({400, 401, 402, 403, 404, 405, 406, 410, 411, 413, 414, 415, 422, 429})


SERVER_ERROR = 500
LOOK_S = 5


class Unanswered(Exception):
    """The facilitator gave no answer that can be read. `sent` as in `chain.RpcFailed`."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class FacilitatorSettler:
    """Asks a facilitator. With an inspector, what it says about money is checked on the chain."""

    def __init__(
        self,
        url: str,
        settings: EvmSettings,
        inspector: Inspector | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._settings = settings
        self._inspector = inspector
        self._headers = dict(headers or {})
        self._session: aiohttp.ClientSession | None = None

    async def check(self, payment: Payment, now_s: int) -> None:  # noqa: ARG002
        """Ask `/verify`; raises a Problem when the payment does not hold."""
        try:
            status, answer = await self._post("/verify", payment)
        except Unanswered as error:
            raise self._unavailable(str(error)) from error
        valid = answer.get("isValid")
        if valid is True and status < 300:
            return
        if valid is not False:
            raise self._unavailable(f"/verify answered {status} without a verdict")
        raise _refusal(_reason(answer, "invalidReason"))

    async def settle(self, payment: Payment, now_s: int) -> Attempt:  # noqa: ARG002
        """Ask `/settle`; see `Settler.settle`. HTTP 200 with `success: false` is a failure."""
        try:
            status, answer = await self._post("/settle", payment)
        except Unanswered as error:
            if not error.sent:
                return await self._unless_paid(payment, str(error))
            attempt = Attempt(Settlement.UNKNOWN, detail=str(error))
        else:
            attempt = _read_verdict(status, answer)
        if self._inspector is None:
            return attempt
        if attempt.state is Settlement.SETTLED:
            return await self._inspector.confirm(
                attempt.reference, payment.key, payment.transfer, self._settings.settle_s
            )
        # A refusal may only mean that somebody else submitted the authorization first; then the
        # payee is paid, and refusing would make the buyer pay twice.
        seen = await self._inspector.trace(
            payment.key, payment.transfer, payment.authorization.valid_before
        )
        return attempt if seen.is_unused else seen

    async def ready(self, now_s: int) -> None:
        """Return: whether it can, the facilitator says when it is asked to verify."""

    async def _unless_paid(self, payment: Payment, why: str) -> Attempt:
        """Refuse what was not sent by us, unless the chain shows that somebody else has sent it."""
        refused = Attempt(Settlement.REFUSED, detail=why, is_untried=True)
        if self._inspector is None:
            return refused
        seen = await self._inspector.trace(
            payment.key, payment.transfer, payment.authorization.valid_before
        )
        return seen if seen.state is Settlement.SETTLED else refused

    async def maintain(self, now_s: int) -> int:  # noqa: ARG002
        """Return 0: the facilitator looks after its own transactions; see that it is there.

        Any answer but a server error will do, for not every one has `/supported`. Errors:
        `RailUnavailable`: a seller whose facilitator is gone sells nothing and should hear of it.
        """
        try:
            async with self._open_session().get(
                self._url + "/supported",
                headers=self._headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=LOOK_S),
            ) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unavailable(f"/supported: {type(error).__name__}") from error
        if status >= SERVER_ERROR:
            raise self._unavailable(f"/supported: HTTP {status}")
        return 0

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._settings.facilitator_s)
            self._session = aiohttp.ClientSession(timeout=timeout)
        return self._session

    @property
    def refunds_from(self) -> bytes | None:
        """None: what a facilitator has settled it cannot take back."""
        return None

    async def sent_for(self, *_: object) -> tuple[str, ...]:
        """None: a facilitator sends its own."""
        return ()

    async def refund(self, *_: object) -> Attempt:
        """Refuse: see `refunds_from`."""
        return Attempt(Settlement.REFUSED, detail="a facilitator makes no refunds")

    @property
    def withheld_for(self) -> str:
        """Nothing: the facilitator's gas is its own concern."""
        return ""

    async def close(self) -> None:
        """Close the session."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, path: str, payment: Payment) -> tuple[int, Mapping[str, Any]]:
        session = self._open_session()
        body = jcs.dumps(self.question(payment))
        headers = {"Content-Type": "application/json", **self._headers}
        try:
            async with session.post(
                self._url + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                raw = await response.content.read(ANSWER_MAX + 1)
                while len(raw) <= ANSWER_MAX and (more := await response.content.read(ANSWER_MAX)):
                    raw += more
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(
                f"{path}: {type(error).__name__}", sent=not was_never_sent(error)
            ) from error
        try:
            answer = jcs.loads(raw[: ANSWER_MAX + 1], size_max=ANSWER_MAX)
        except ParseError as error:
            # A client error without a verdict never reached the part that moves money.
            sent = status not in _NOT_PROCESSED
            raise Unanswered(f"{path}: HTTP {status}, no JSON", sent=sent) from error
        if not isinstance(answer, dict):
            raise Unanswered(f"{path}: HTTP {status}, not an object")
        return status, answer

    def question(self, payment: Payment) -> dict[str, Any]:
        """Return the body of `/verify` and `/settle`; addresses in EIP-55 form, amounts as text."""
        settings, signed = self._settings, payment.authorization
        requirements = {
            "scheme": "exact",
            "network": f"eip155:{settings.chain_id}",
            "amount": str(signed.value),
            "asset": checksum(settings.token),
            "payTo": checksum(signed.recipient),
            "maxTimeoutSeconds": settings.settle_s,
            "extra": {
                "assetTransferMethod": "eip3009",
                "name": settings.name,
                "version": settings.version,
            },
        }
        proof = {
            "signature": "0x" + signed.settled_signature.hex(),
            "authorization": {
                "from": checksum(signed.sender),
                "to": checksum(signed.recipient),
                "value": str(signed.value),
                "validAfter": str(signed.valid_after),
                "validBefore": str(signed.valid_before),
                "nonce": "0x" + signed.nonce.hex(),
            },
        }
        return {
            "x402Version": X402_VERSION,
            "paymentPayload": {
                "x402Version": X402_VERSION,
                "accepted": requirements,
                "payload": proof,
            },
            "paymentRequirements": requirements,
        }

    def _unavailable(self, why: str) -> RailUnavailable:
        return RailUnavailable(
            "The payment could not be checked; nothing was charged.",
            private=f"facilitator {why}",
            retry_after_s=self._settings.retry_after_s,
        )


def _read_verdict(status: int, answer: Mapping[str, Any]) -> Attempt:
    success, named = answer.get("success"), answer.get("transaction")
    tx_hash = named if isinstance(named, str) and _TX_HASH.fullmatch(named) else ""
    if success is True and status < 300 and tx_hash:
        return Attempt(Settlement.SETTLED, tx_hash.lower())
    if success is not False:
        processed = success is True or status not in _NOT_PROCESSED
        state = Settlement.UNKNOWN if processed else Settlement.REFUSED
        why = f"/settle answered {status} without a verdict"
        return Attempt(state, tx_hash, why, is_untried=not processed)
    reason = _reason(answer, "errorReason")
    definite = reason.startswith(_DEFINITE) and not any(word in reason for word in _OPEN)
    state = Settlement.REFUSED if definite else Settlement.UNKNOWN
    return Attempt(state, tx_hash, f"the facilitator says {reason}")


def _reason(answer: Mapping[str, Any], member: str) -> str:
    reason = answer.get(member)
    # Only a short code is repeated: a free text might hold the credential or another secret.
    return reason if isinstance(reason, str) and _CODE.fullmatch(reason) else "no_reason"


def _refusal(reason: str) -> Problem:
    if "insufficient" in reason:
        return PaymentInsufficient("The payer's balance does not cover the price.", private=reason)
    if "nonce" in reason or "used" in reason:
        return VerificationFailed("This authorization was used already.", private=reason)
    return VerificationFailed(f"The facilitator does not accept the payment: {reason}.")
