"""Stripe's account as a statement: which of its PaymentIntents are charges of ours, and which of
those were given back.

Read from Stripe's lists, which are complete at once; its search lags behind and is not asked.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import batched
from typing import Any

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.rails.base import RailMisconfigured
from mpp_gateway.rails.statement import Booked, Entry, ProofsOf, Shown, Transferred
from mpp_gateway.rails.stripe.client import (
    INTENTS,
    PAGE,
    REFUNDS,
    StripeClient,
    StripeFailed,
    StripeRefused,
)
from mpp_gateway.rails.stripe.outcomes import read_refunds
from mpp_gateway.rails.stripe.request import PROOF_PREFIX, StripeSettings

NOT_OURS = "the PaymentIntent does not have our metadata"
_INTENT = re.compile(r"pi_[A-Za-z0-9_]{1,250}")
_REFUND = re.compile(r"[a-z]{2,8}_[A-Za-z0-9_]{1,240}")
_PROOF = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Charge:
    """What is kept of a PaymentIntent. `proof_id` is empty where it is none of ours."""

    proof_id: str
    received_minor: int
    currency: str
    status: str
    created_s: int

    @classmethod
    def of(cls, intent: Mapping[str, Any]) -> "_Charge":
        metadata = intent.get("metadata")
        proof = metadata.get("mpp_proof") if isinstance(metadata, Mapping) else None
        is_ours = isinstance(proof, str) and _PROOF.fullmatch(proof)
        return cls(
            f"{PROOF_PREFIX}{proof}" if is_ours else "",
            _number(intent, "amount_received"),
            str(intent.get("currency", "")),
            str(intent.get("status", "")),
            _number(intent, "created"),
        )

    @property
    def is_paid(self) -> bool:
        return self.status == "succeeded" and self.received_minor > 0


class StripeStatement:
    """One account in one currency; see `rails.statement.Statement`. Places are unix times.

    What was created after `newest` was asked is left out: the books need not have it yet. Of each
    charge of ours a few words are kept in memory, and of all others the name.
    """

    is_by_time = True

    def __init__(self, name: str, settings: StripeSettings, client: StripeClient) -> None:
        self._name = name
        self._settings = settings
        self._client = client
        self._newest: dict[str, Mapping[str, Any]] = {}
        """The newest object of each list, as `newest` has found it."""
        self._read_from_s: int | None = None
        self._charges: dict[str, _Charge] = {}
        self._others: dict[str, int] = {}
        """When what is not ours was created, for whom all that counts is that it was paid."""
        self._refunds: dict[str, list[Mapping[str, Any]]] = {}
        """By PaymentIntent, the newest first."""
        self._refunded_by: dict[str, str] = {}
        """The PaymentIntent of each refund."""

    async def newest(self) -> int:
        """Return when the last PaymentIntent was created. Errors: see `Statement`."""
        try:
            for path in (INTENTS, REFUNDS):
                found = await self._client.latest(path)
                if found is not None:
                    self._newest[path] = found
        except (StripeFailed, StripeRefused) as error:
            raise self._error(error) from error
        return _number(self._newest.get(INTENTS, {}), "created")

    async def place_at(self, unix_s: int) -> int:
        """Return the time itself."""
        return max(unix_s, 0)

    async def read_ahead(self, first: int) -> None:
        """Read all PaymentIntents and refunds from a time on to what `newest` has found."""
        until_s, self._read_from_s = self._read_from_s, first
        if until_s is not None and until_s <= first:
            self._read_from_s = until_s
            return
        try:
            async for intent in self._listed(INTENTS, first, until_s):
                self._keep(intent)
            async for refund in self._listed(REFUNDS, first, until_s):
                intent_id = str(refund.get("payment_intent"))
                if intent_id in self._charges:
                    self._refunds.setdefault(intent_id, []).append(refund)
                    self._refunded_by[str(refund.get("id"))] = intent_id
        except (StripeFailed, StripeRefused) as error:
            raise self._error(error) from error

    async def under(self, reference: str) -> Entry:
        """Return what a PaymentIntent paid, or what a refund, with others of it, gave back."""
        if reference in self._others:
            return Entry(reference, self._others[reference], others=1, why=NOT_OURS)
        try:
            if _INTENT.fullmatch(reference):
                return await self._payment(reference)
            if _REFUND.fullmatch(reference):
                return await self._refund(reference)
        except (StripeFailed, StripeRefused) as error:
            raise self._error(error) from error
        return Entry(reference, None, why="it names nothing at Stripe")

    def shows(self, shown: Shown, booked: Booked) -> bool:
        """Tell whether this is the payment of the books. See `rails.statement.Statement`."""
        named = shown.proof_id, shown.amount_minor, _account(shown.payee)
        return named == (booked.proof_id, booked.amount_minor, _account(booked.payee))

    def gives_back(self, transferred: Transferred, booked: Booked) -> bool:
        """Tell whether refunds give this payment back. See `rails.statement.Statement`."""
        ends = _account(transferred.source), transferred.target, transferred.amount_minor
        return ends == (_account(booked.payee), booked.account, booked.amount_minor)

    def watch(self, payees: frozenset[str], givers: frozenset[str], proofs_of: ProofsOf) -> None:
        """Do nothing: there is one account, and its metadata name the proofs."""

    async def movements(self, first: int, last: int) -> AsyncIterator[tuple[int, tuple[str, ...]]]:
        """Yield the charges of ours, their refunds, and what else was paid, a page at a time."""
        await self.read_ahead(first)
        placed = [
            *((charge.created_s, intent_id) for intent_id, charge in self._charges.items()),
            *((created_s, intent_id) for intent_id, created_s in self._others.items()),
        ]
        found = [(at, name) for at, name in placed if first <= at <= last]
        # All refunds of a charge are one: by the name under which the rail has booked them.
        for intent_id, refunds in self._refunds.items():
            if reference := read_refunds(refunds).reference:
                found.append((self._charges[intent_id].created_s, reference))
        for page in batched(sorted(found), PAGE, strict=False):
            yield page[-1][0], tuple(name for _, name in page)

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()

    # Inside

    async def _listed(
        self, path: str, first_s: int, until_s: int | None
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Yield what a list has of a time, the newest first; nothing younger than `newest`."""
        if until_s is not None:
            between = {"created": {"gte": first_s, "lt": until_s}}
            async for found in self._client.everything(path, between):
                yield found
            return
        newest = self._newest.get(path)
        if newest is None or _number(newest, "created") < first_s:
            return
        yield newest
        since = {"created": {"gte": first_s}}
        async for found in self._client.everything(path, since, str(newest.get("id"))):
            yield found

    def _keep(self, intent: Mapping[str, Any]) -> None:
        charge, intent_id = _Charge.of(intent), str(intent.get("id"))
        if charge.currency != self._settings.currency:
            return  # another method's
        if charge.proof_id:
            self._charges[intent_id] = charge
        elif charge.is_paid:
            self._others[intent_id] = charge.created_s

    async def _payment(self, intent_id: str) -> Entry:
        charge = await self._charge(intent_id)
        if charge is None:
            return Entry(intent_id, None, why="the account has no such PaymentIntent")
        if charge.currency != self._settings.currency:
            return Entry(intent_id, charge.created_s, why=f"it is in {charge.currency}")
        if not charge.proof_id:
            paid = int(charge.is_paid)
            return Entry(intent_id, charge.created_s, others=paid, why=NOT_OURS)
        if not charge.is_paid:
            why = f"the PaymentIntent is {charge.status}"
            return Entry(intent_id, charge.created_s, why=why)
        # What has gone back is nobody's to ask for any more, whatever the books have of it. What is
        # on its way may come to nothing.
        given = read_refunds(self._refunds.get(intent_id, ()))
        is_ours = given.back_minor < charge.received_minor
        shown = Shown(charge.proof_id, self._settings.payee, charge.received_minor, is_ours)
        return Entry(intent_id, charge.created_s, (shown,))

    async def _refund(self, reference: str) -> Entry:
        intent_id = self._refunded_by.get(reference)
        refunds = self._refunds.get(intent_id or "")
        if intent_id is None or refunds is None:
            found = await self._client.one(REFUNDS, reference)
            if found is None:
                return Entry(reference, None, why="the account has no such refund")
            intent_id = str(found.get("payment_intent"))
            of_intent = {"payment_intent": intent_id}
            refunds = [back async for back in self._client.everything(REFUNDS, of_intent)]
        charge = await self._charge(intent_id)
        if charge is None or not charge.proof_id:
            return Entry(reference, None, why="it is the refund of no charge of ours")
        given = read_refunds(refunds)
        minor = given.back_minor + given.waiting_minor
        if not minor:
            return Entry(reference, charge.created_s, why="the refund came to nothing")
        back = Transferred(self._settings.payee, charge.proof_id, minor, is_from_us=True)
        return Entry(reference, charge.created_s, transfers=(back,))

    async def _charge(self, intent_id: str) -> _Charge | None:
        if intent_id in self._charges:
            return self._charges[intent_id]
        found = await self._client.one(INTENTS, intent_id)
        return None if found is None else _Charge.of(found)

    def _error(self, error: StripeFailed | StripeRefused) -> Exception:
        status = error.status if isinstance(error, StripeRefused) else 0
        code = error.code if isinstance(error, StripeRefused) else ""
        if status == 401:
            return RailMisconfigured(f"{self._name}: Stripe does not accept secret_key")
        if self._settings.connect.stripe_account and code == "account_invalid":
            return RailMisconfigured(
                f"{self._name}: secret_key has no access to connect.stripe_account"
            )
        if status == 403:
            return RailMisconfigured(
                f"{self._name}: secret_key may not read PaymentIntents and refunds"
            )
        return RailUnavailable("Stripe does not answer.", private=str(error))


def _account(payee: str) -> tuple[str, str]:
    """Return mode and account of a purse: the profile in its name is in no object of Stripe's."""
    mode, _, rest = payee.removeprefix("stripe:").partition(":")
    return mode, rest.partition("/")[2]


def _number(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
