"""A stand-in for Stripe's API: real HTTP, forms, keys and a ledger, and no money.

It is not Stripe. It knows the endpoints that the rail uses and refuses every parameter that it does
not know; what it says of the rest is written from Stripe's documentation. `faults` make it fail.
"""

import asyncio
import base64
import itertools
import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

KEY = "sk_test_standin"
PROFILE = "profile_standin"
ACCOUNT = "acct_standin"
CONNECTED = "acct_connected"
START_S = 30
LEAST_MINOR = 50
TURNED_AWAY = {
    "401": "invalid_api_key",
    "402": "capture_charge_authorization_expired",
    "403": "more_permissions_required",
    "409": "lock_timeout",
    "429": "rate_limit",
}
CREATE = {
    "amount", "currency", "confirm", "shared_payment_granted_token", "capture_method",
    "application_fee_amount", "on_behalf_of", "transfer_group", "transfer_data[destination]",
    "transfer_data[amount]", "automatic_payment_methods[enabled]",
    "automatic_payment_methods[allow_redirects]",
}  # fmt: skip
LISTED = {"limit", "starting_after", "created[gte]", "created[lte]", "created[lt]"}
PAGE_MAX = 100
REFUND = {"payment_intent", "metadata[mpp_refund]", "refund_application_fee", "reverse_transfer"}

type Reply = tuple[int, dict[str, Any]]


@dataclass
class Token:
    """A shared payment token: what its buyer lets one profile charge, how often and until when."""

    payment_method: str
    currency: str
    left_minor: int
    expires_s: int
    network_id: str


@dataclass
class Entry:
    """One movement of money at the stand-in: `held`, `charged`, `let go` or `refunded`."""

    kind: str
    intent: str
    minor: int


@dataclass
class StandInStripe:
    """Set `faults[verb]` for good or `once[verb]` for the next calls (`lost,429`: for two).

    Verbs: create, capture, cancel, retrieve, list, search, refund, refunds, returned (one refund by
    its id), account.

    Faults: reset (cut before anything is done), hang, lost (done, then cut), late (done, then
    never said), 500 (kept for the key), garbage (done, then HTML), 401, 402, 403, 409, 429.
    """

    faults: dict[str, str] = field(default_factory=dict)
    once: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    refunded: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[Entry] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    """Verb, parameters and header fields of every call."""
    indexed: set[str] = field(default_factory=set)
    """What the search knows: `index` adds what there is by now, as Stripe does after a while."""
    charges_enabled: bool = True
    refunds_wait: bool = False
    url: str = ""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends what hangs."""
    _kept: dict[str, tuple[dict[str, str], Reply]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    # What tests do and see

    def mint(
        self,
        amount_minor: int = 100,
        *,
        payment_method: str = "pm_card_visa",
        currency: str = "usd",
        expires_s: int | None = None,
        network_id: str = PROFILE,
    ) -> str:
        """Return a token of a new buyer, as a wallet would get it."""
        spt = f"spt_marked{next(self._numbers)}secret{time.time_ns()}"
        ends = int(time.time()) + 600 if expires_s is None else expires_s
        self.tokens[spt] = Token(payment_method, currency, amount_minor, ends, network_id)
        return spt

    def index(self) -> None:
        """Let the search see everything that there is."""
        self.indexed = set(self.intents)

    def calm(self) -> None:
        """End every fault."""
        self.faults.clear()
        self.once.clear()

    def sums(self, spt: str) -> dict[str, int]:
        """Return what was moved for one token, by kind of movement."""
        ours = {i["id"] for i in self.intents.values() if i["_token"] == spt}
        found: dict[str, int] = {}
        for entry in self.ledger:
            if entry.intent in ours:
                found[entry.kind] = found.get(entry.kind, 0) + entry.minor
        return found

    def of(self, spt: str) -> list[dict[str, Any]]:
        """Return the PaymentIntents made from a token."""
        return [intent for intent in self.intents.values() if intent["_token"] == spt]

    def calls(self, verb: str) -> list[tuple[dict[str, str], dict[str, str]]]:
        return [(given, fields) for asked, given, fields in self.asked if asked == verb]

    # The server

    async def serve(self, request: web.Request) -> web.StreamResponse:
        given = dict(parse_qsl(await request.text(), keep_blank_values=True)) | dict(request.query)
        verb = _verb(request)
        self.asked.append((verb, given, {k.lower(): v for k, v in request.headers.items()}))
        fault, _, rest = self.once.pop(verb, "").partition(",")
        if rest:
            self.once[verb] = rest
        fault = fault or self.faults.get(verb, "")
        if fault in {"reset", "hang"}:
            return await self._vanish(request, fault)
        if not _is_authorized(request):
            refused = _problem("authentication_error", "invalid_api_key")
            return web.json_response(refused, status=401)
        if fault in TURNED_AWAY:
            problem = _problem("api_error", TURNED_AWAY[fault])
            return web.json_response(problem, status=int(fault))
        (status, body), replayed = self._once(request, verb, given, fault)
        if fault in {"lost", "late"}:
            return await self._vanish(request, "reset" if fault == "lost" else "hang")
        if fault == "garbage":
            return web.Response(text="<html>", content_type="text/html")
        shown = json.dumps(body, default=str)
        fields = {"Idempotent-Replayed": "true"} if replayed else {}
        return web.Response(
            status=status, text=shown, content_type="application/json", headers=fields
        )

    async def _vanish(self, request: web.Request, how: str) -> web.StreamResponse:
        if how == "hang":
            await self.closing.wait()
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def _once(
        self, request: web.Request, verb: str, given: dict[str, str], fault: str
    ) -> tuple[Reply, bool]:
        """Do what a key stands for once; another set of parameters under it is refused."""
        key = request.headers.get("Idempotency-Key")
        if key is None or request.method != "POST":
            return self._do(request, verb, given), False
        assert len(key) <= 255
        if key in self._kept:
            before, reply = self._kept[key]
            if before != given:
                return (400, _problem("idempotency_error", "")), False
            return reply, True
        if fault == "500":
            reply = 500, _problem("api_error", "")
        else:
            reply = self._do(request, verb, given)
        self._kept[key] = given, (reply[0], json.loads(json.dumps(reply[1])))
        return reply, False

    def _do(self, request: web.Request, verb: str, given: dict[str, str]) -> Reply:
        intent_id, account = request.match_info.get("id", ""), request.headers.get("Stripe-Account")
        # What one account has, no other account sees.
        if intent_id and self.intents.get(intent_id, {"_account": ""})["_account"] != account:
            return 404, _problem("invalid_request_error", "resource_missing")
        works: dict[str, Callable[[], Reply]] = {
            "account": lambda: self._account(request),
            "mint": lambda: self._mint(given),
            "create": lambda: self._create(request, given),
            "retrieve": lambda: (200, _shown(self.intents[intent_id])),
            "list": lambda: self._list("/v1/payment_intents", given, self._intents_of(account)),
            "search": lambda: self._page(given),
            "capture": lambda: self._capture(self.intents[intent_id]),
            "cancel": lambda: self._cancel(self.intents[intent_id]),
            "refunds": lambda: self._refunds(given, account),
            "returned": lambda: self._returned(request, account),
            "refund": lambda: self._refund(given),
        }
        return works[verb]()

    def _account(self, request: web.Request) -> Reply:
        account = request.headers.get("Stripe-Account", ACCOUNT)
        if account not in {ACCOUNT, CONNECTED}:
            return 403, _problem("invalid_request_error", "account_invalid")
        return 200, {"id": account, "charges_enabled": self.charges_enabled}

    def _mint(self, given: dict[str, str]) -> Reply:
        spt = self.mint(
            int(given["usage_limits[max_amount]"]),
            payment_method=given["payment_method"],
            currency=given["usage_limits[currency]"],
            expires_s=int(given["usage_limits[expires_at]"]),
            network_id=given["seller_details[network_id]"],
        )
        return 200, {"id": spt, "object": "shared_payment.granted_token"}

    def _intents_of(self, account: str | None) -> list[dict[str, Any]]:
        return [intent for intent in self.intents.values() if intent["_account"] == account]

    def _refunds_of(self, account: str | None) -> list[dict[str, Any]]:
        ours = {intent["id"] for intent in self._intents_of(account)}
        return [refund for refund in self.refunded if refund["payment_intent"] in ours]

    def _refunds(self, given: dict[str, str], account: str | None) -> Reply:
        about = {**given}
        intent_id, found = about.pop("payment_intent", None), self._refunds_of(account)
        if intent_id is not None:
            found = [refund for refund in found if refund["payment_intent"] == intent_id]
        return self._list("/v1/refunds", about, found)

    def _returned(self, request: web.Request, account: str | None) -> Reply:
        name = request.path.rpartition("/")[2]
        for refund in self._refunds_of(account):
            if refund["id"] == name:
                return 200, dict(refund)
        return 404, _problem("invalid_request_error", "resource_missing")

    def _create(self, request: web.Request, given: dict[str, str]) -> Reply:
        plain = {n for n in given if not n.startswith(("metadata[", "payment_method_types["))}
        unknown = plain - CREATE
        if unknown:
            return 400, _problem("invalid_request_error", "parameter_unknown")
        if not request.headers.get("Stripe-Version", "").endswith(".preview"):
            return 400, _problem("invalid_request_error", "parameter_unknown")
        if given.get("confirm") != "true" or int(given["amount"]) < LEAST_MINOR:
            return 400, _problem("invalid_request_error", "amount_too_small")
        direct = request.headers.get("Stripe-Account")
        if "application_fee_amount" in given and not (
            direct or "transfer_data[destination]" in given
        ):
            return 400, _problem("invalid_request_error", "parameter_invalid_empty")
        token = self.tokens.get(given["shared_payment_granted_token"])
        code = _flaw(token, int(given["amount"]), given["currency"])
        if token is None or code:
            spt = given["shared_payment_granted_token"]
            return 400, _problem("invalid_request_error", code, f"No such token: '{spt}'")
        return self._confirm(token, given, direct)

    def _confirm(self, token: Token, given: dict[str, str], direct: str | None) -> Reply:
        intent_id, amount = f"pi_{next(self._numbers):06d}", int(given["amount"])
        intent = {
            "id": intent_id,
            "object": "payment_intent",
            "amount": amount,
            "amount_received": 0,
            "currency": given["currency"],
            "created": int(time.time()),
            "metadata": {
                name[9:-1]: value for name, value in given.items() if name.startswith("metadata[")
            },
            "status": "requires_payment_method",
            "_token": given["shared_payment_granted_token"],
            "_account": direct,
        }
        self.intents[intent_id] = intent
        match token.payment_method:
            case "pm_card_declined":
                return 402, _declined(intent, "generic_decline")
            case "pm_card_insufficient":
                return 402, _declined(intent, "insufficient_funds")
            case "pm_card_action":
                intent["status"] = "requires_action"
                return 200, _shown(intent)
            case "pm_slow":
                intent["status"] = "processing"
                return 200, _shown(intent)
        token.left_minor -= amount
        if given.get("capture_method") == "manual":
            intent["status"] = "requires_capture"
            self.ledger.append(Entry("held", intent_id, amount))
        else:
            intent |= {"status": "succeeded", "amount_received": amount}
            self.ledger.append(Entry("charged", intent_id, amount))
        return 200, _shown(intent)

    def _capture(self, intent: dict[str, Any]) -> Reply:
        if intent["status"] != "requires_capture":
            code = "payment_intent_unexpected_state"
            return 400, _problem("invalid_request_error", code)
        intent |= {"status": "succeeded", "amount_received": intent["amount"]}
        self.ledger.append(Entry("charged", intent["id"], intent["amount"]))
        return 200, _shown(intent)

    def _cancel(self, intent: dict[str, Any]) -> Reply:
        if intent["status"] in {"succeeded", "canceled"}:
            code = "payment_intent_unexpected_state"
            return 400, _problem("invalid_request_error", code)
        if intent["status"] == "requires_capture":
            self.ledger.append(Entry("let go", intent["id"], intent["amount"]))
        intent["status"] = "canceled"
        return 200, _shown(intent)

    def _list(self, path: str, given: dict[str, str], found: list[dict[str, Any]]) -> Reply:
        """Return a page as Stripe's lists do: the newest first, behind `starting_after`."""
        size = int(given.get("limit", "10"))
        if set(given) - LISTED or not 1 <= size <= PAGE_MAX:
            return 400, _problem("invalid_request_error", "parameter_unknown")
        found = sorted(found, key=lambda item: item["created"])
        found.reverse()
        if after := given.get("starting_after"):
            names = [item["id"] for item in found]
            if after not in names:
                return 400, _problem("invalid_request_error", "resource_missing")
            found = found[names.index(after) + 1 :]
        first = int(given.get("created[gte]", "0"))
        last = min(int(given.get("created[lte]", 2**62)), int(given.get("created[lt]", 2**62)) - 1)
        found = [item for item in found if first <= item["created"] <= last]
        page = [_shown(item) for item in found[:size]]
        more = len(found) > size
        return 200, {"object": "list", "url": path, "has_more": more, "data": page}

    def _page(self, given: dict[str, str]) -> Reply:
        found, first = self._search(given["query"]), int(given.get("page", "0"))
        last = first + int(given.get("limit", "10"))
        return 200, {
            "data": found[first:last],
            "has_more": len(found) > last,
            "next_page": str(last),
        }

    def _search(self, query: str) -> list[dict[str, Any]]:
        wanted = [part.split(":") for part in query.split(" AND ")]
        found = []
        for intent_id in sorted(self.indexed & set(self.intents)):
            intent = self.intents[intent_id]
            flat = {"status": intent["status"]} | {
                f"metadata['{name}']": value for name, value in intent["metadata"].items()
            }
            if all(flat.get(name) == value.strip("'") for name, value in wanted):
                found.append(_shown(intent))
        return found

    def _refund(self, given: dict[str, str]) -> Reply:
        if set(given) - REFUND:
            return 400, _problem("invalid_request_error", "parameter_unknown")
        intent = self.intents[given["payment_intent"]]
        back = sum(
            r["amount"]
            for r in self.refunded
            if r["payment_intent"] == intent["id"] and r["status"] in {"succeeded", "pending"}
        )
        left = intent["amount_received"] - back
        if not left:
            return 400, _problem("invalid_request_error", "charge_already_refunded")
        refund = {
            "id": f"re_{next(self._numbers):06d}",
            "object": "refund",
            "payment_intent": intent["id"],
            "amount": left,
            "created": int(time.time()),
            "currency": intent["currency"],
            "metadata": {"mpp_refund": "true"},
            "status": "pending" if self.refunds_wait else "succeeded",
        }
        self.refunded.append(refund)
        self.ledger.append(Entry("refunded", intent["id"], left))
        return 200, dict(refund)


def _verb(request: web.Request) -> str:
    path = request.path.removeprefix("/v1/")
    is_post = request.method == "POST"
    if path == "account":
        return "account"
    if path.startswith("test_helpers/"):
        return "mint"
    if path == "refunds":
        return "refund" if is_post else "refunds"
    if path.startswith("refunds/"):
        return "returned"
    if path == "payment_intents":
        return "create" if is_post else "list"
    last = path.rpartition("/")[2]
    return last if last in {"search", "capture", "cancel"} else "retrieve"


def _is_authorized(request: web.Request) -> bool:
    basic = base64.b64encode(f"{KEY}:".encode()).decode()
    return request.headers.get("Authorization") in {f"Bearer {KEY}", f"Basic {basic}"}


def _flaw(token: Token | None, amount: int, currency: str) -> str:
    if token is None:
        return "resource_missing"
    if token.expires_s < time.time():
        return "shared_payment_token_expired"
    if token.network_id != PROFILE or token.currency != currency:
        return "shared_payment_token_not_for_seller"
    return "shared_payment_token_limit_exceeded" if amount > token.left_minor else ""


def _problem(kind: str, code: str, message: str = "no") -> dict[str, Any]:
    error = {"type": kind, "message": message}
    return {"error": error | ({"code": code} if code else {})}


def _declined(intent: dict[str, Any], code: str) -> dict[str, Any]:
    error = {"type": "card_error", "code": "card_declined", "decline_code": code, "message": "no"}
    return {"error": error | {"payment_intent": _shown(intent)}}


def _shown(intent: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in intent.items() if not name.startswith("_")}


@contextmanager
def stand_in_stripe():
    """Run a stand-in on a port and in a thread of its own; `url` is its API base."""
    server, loop = StandInStripe(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/v1/payment_intents/search", server.serve)
        app.router.add_route("*", "/v1/payment_intents/{id}", server.serve)
        app.router.add_route("*", "/v1/payment_intents/{id}/{verb}", server.serve)
        app.router.add_route("*", "/{rest:.*}", server.serve)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(START_S)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(server.closing.set)
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(START_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(START_S)
