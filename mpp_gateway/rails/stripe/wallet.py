"""A buyer's wallet for the `stripe` rail: a shared payment token, or a way to get one for a test.

A token is made by a buyer's own wallet or agent. For tests Stripe makes one for a test key, as the
SDKs' commands ask for it; nothing here can charge a real card.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from mpp_gateway.config import currencies
from mpp_gateway.config.stripe import API_BASE, STRIPE_VERSION
from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.rails.stripe.request import INTENT, METHOD, is_spt
from mpp_gateway.rails.wallet import Deal, PaymentDeclined, check_open

CARD = "pm_card_visa"
"""Stripe's own test card."""
GRANTED_TOKENS = "/v1/test_helpers/shared_payment/granted_tokens"
LIFETIME_MAX_S = 3600
TIMEOUT_S = 20
_TEST_KEY = re.compile(r"(?:sk|rk)_test_[A-Za-z0-9_]{1,250}")
_AMOUNT = re.compile(r"[1-9][0-9]{0,7}")
_CURRENCY = re.compile(r"[a-z]{3}")
_PROFILE = re.compile(r"[A-Za-z0-9_]{1,100}")
_CODE = re.compile(r"[a-z0-9_]{1,64}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a challenge asks of its payer (stripe charge draft, section "Request Schema")."""

    amount_minor: int
    currency: str
    network_id: str
    external_id: str | None = None

    @classmethod
    def read(cls, request: Mapping[str, Any]) -> Self:
        """Return what a request object asks for; raises ValueError if it is none."""
        details = request.get("methodDetails")
        network_id = details.get("networkId") if isinstance(details, Mapping) else None
        external_id = request.get("externalId")
        if external_id is not None and not isinstance(external_id, str):
            raise ValueError("externalId is no text")
        return cls(
            int(_matching(request.get("amount"), _AMOUNT)),
            _matching(request.get("currency"), _CURRENCY),
            _matching(network_id, _PROFILE),
            external_id,
        )


@dataclass(frozen=True, slots=True)
class TestMode:
    """A buyer's account in Stripe's test mode, which makes tokens without a card."""

    __test__ = False  # no test, whatever its name

    secret_key: str = field(repr=False)
    payment_method: str = CARD
    api_base: str = API_BASE

    async def grant(self, asked: Asked, expires_s: int) -> str:
        """Return a token that this one seller can charge this one price with.

        Errors: `PaymentDeclined`, for a key of real money before anybody is asked.
        """
        if not _TEST_KEY.fullmatch(self.secret_key):
            raise PaymentDeclined(
                "the key of Stripe is no test key (sk_test_…, rk_test_…), and tokens are made in"
                " its test mode only; for real money let a wallet make one, and give that"
            )
        parameters = {
            "payment_method": self.payment_method,
            "usage_limits[currency]": asked.currency,
            "usage_limits[max_amount]": str(asked.amount_minor),
            "usage_limits[expires_at]": str(expires_s),
            "seller_details[network_id]": asked.network_id,
        }
        try:
            status, answer = await self._post(parameters)
        except (aiohttp.ClientError, TimeoutError, ParseError) as error:
            raise PaymentDeclined(f"Stripe does not answer: {type(error).__name__}") from None
        members = answer if isinstance(answer, Mapping) else {}
        spt = members.get("id")
        if status >= 400 or not isinstance(spt, str) or not is_spt(spt):
            raise PaymentDeclined(f"Stripe made no token: HTTP {status} {_code(members)}")
        return spt

    async def _post(self, parameters: Mapping[str, str]) -> tuple[int, Any]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(
                self.api_base.rstrip("/") + GRANTED_TOKENS,
                data=parameters,
                auth=aiohttp.BasicAuth(self.secret_key),
                headers={"Stripe-Version": STRIPE_VERSION},
                allow_redirects=False,
            ) as response,
        ):
            return response.status, jcs.loads(await response.read())


@dataclass(frozen=True, slots=True)
class StripeWallet:
    """Presents shared payment tokens; see `rails.wallet.Wallet`."""

    spt: str | None = field(default=None, repr=False)
    test_mode: TestMode | None = None
    """Makes a token where none was given."""
    method: str = METHOD

    @property
    def can_sign(self) -> bool:
        """Whether there is a token, or somebody who makes one."""
        return self.spt is not None or self.test_mode is not None

    def read(self, challenge: Challenge) -> Deal | None:
        """Return what a stripe charge asks for; see `rails.wallet.Wallet.read`."""
        if (challenge.method, challenge.intent) != (METHOD, INTENT):
            return None
        try:
            asked = Asked.read(challenge.request_object)
        except ValueError:
            return None
        return Deal(
            challenge=challenge,
            amount_minor=asked.amount_minor,
            # Stripe's, for all of its accounts: a seller has no say in them.
            decimals=currencies.decimals_of(asked.currency),
            unit=asked.currency,
            terms=asked,
            shown={"currency": asked.currency, "profile": asked.network_id},
        )

    async def check(self, deal: Deal) -> None:
        """Return: what a currency is, and whom a token can pay, Stripe sees to."""

    async def sign(self, deal: Deal, now_s: int) -> Credential:
        """Put a token into a credential; see `rails.wallet.Wallet.sign`."""
        asked: Asked = deal.terms
        expires_s = check_open(deal.challenge, now_s) or now_s + LIFETIME_MAX_S
        spt = self.spt
        if spt is None:
            assert self.test_mode is not None
            spt = await self.test_mode.grant(asked, min(expires_s, now_s + LIFETIME_MAX_S))
        payload = {"spt": spt}
        if asked.external_id is not None:
            payload["externalId"] = asked.external_id
        return Credential(deal.challenge, payload)

    async def is_made(self, credential: Credential) -> bool | None:  # noqa: ARG002
        """None: what a token was charged, Stripe tells the seller alone."""
        return None


def _matching(value: Any, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError("not the request of a charge")
    return value


def _code(answer: Mapping[str, Any]) -> str:
    """Return the code of an error: the text beside it may hold what was sent."""
    error = answer.get("error")
    members = error if isinstance(error, Mapping) else {}
    for name in ("code", "type"):
        code = members.get(name)
        if isinstance(code, str) and _CODE.fullmatch(code):
            return code
    return "no_code"
