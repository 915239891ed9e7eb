"""Stripe's API through its own SDK: one session, no retries but ours, nothing of it in a log.

A token (SPT) travels in parameters, in idempotency keys and in Stripe's error texts. So none of
these is ever repeated: what an exception of this module says is a status and a short code.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import aiohttp
import stripe

from mpp_gateway.rails.stripe.request import SDK

ANSWER_MAX = 4 * 1024 * 1024
"""A page of a hundred PaymentIntents is below half of this."""
PAGE = 100
PAGES_MAX = 20
INTENTS, REFUNDS = "/v1/payment_intents", "/v1/refunds"
TRIES = 3
FIRST_PAUSE_MS, PAUSE_MS_MAX = 100, 2_000
SECOND_MS = 1_000
SERVER_ERROR = 500
BUSY = 429
MISSING = 404
CONFLICT = 409
UNTRIED = frozenset({401, 403, 429})
"""Answers that Stripe gives before it looks at what is asked."""

_CODE = re.compile(r"[a-z0-9_]{1,64}")
_ID = re.compile(r"[A-Za-z0-9_]{1,255}")


class StripeFailed(Exception):
    """No answer says what became of the request. `sent`: False if no byte of it reached anybody."""

    def __init__(self, message: str, *, sent: bool = True, is_final: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.is_final = is_final
        """Stripe has kept this answer for its key: asked again it says the same."""


class StripeRefused(Exception):
    """Stripe has said no. `intent` is the PaymentIntent that the error is about, if it names it."""

    def __init__(self, status: int, code: str, intent: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"HTTP {status} {code}")
        self.status = status
        self.code = code
        self.intent = intent

    @property
    def is_untried(self) -> bool:
        """Whether the request was turned away before anything was done for it."""
        return self.status in UNTRIED

    @property
    def is_key_mismatch(self) -> bool:
        """Whether other parameters were sent under the same key before: by us, at some time."""
        return self.code in {"idempotency_error", "idempotency_key_in_use"}


@dataclass(frozen=True, slots=True)
class Answered:
    """An object of Stripe's. `is_replayed`: a call before this attempt made it."""

    data: Mapping[str, Any]
    is_replayed: bool = False


class Transport(stripe.HTTPClient):
    """The SDK's seam for HTTP on an aiohttp session: no redirects, answers of bounded size."""

    name = "aiohttp"

    def __init__(self, timeout_ms: int) -> None:
        super().__init__()
        self._timeout_ms = timeout_ms
        self._session: aiohttp.ClientSession | None = None

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Make one call; raises `stripe.APIConnectionError` around what went wrong."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout_ms / 1000)
            self._session = aiohttp.ClientSession(timeout=timeout)
        try:
            async with self._session.request(
                method, url, headers=headers, data=post_data, allow_redirects=False
            ) as response:
                raw = bytearray()
                async for part in response.content.iter_any():
                    raw += part
                    if len(raw) > ANSWER_MAX:
                        raise aiohttp.ClientPayloadError("the answer is too long")
                return bytes(raw), response.status, response.headers
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            name = type(error).__name__
            raise stripe.APIConnectionError(name) from error  # type: ignore[no-untyped-call]

    async def close_async(self) -> None:
        """Close the session."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class StripeClient:
    """The calls that this rail makes, on one account.

    `settle_s` bounds an attempt of `create` and `capture`, which ask again under the same
    idempotency key while no answer comes: Stripe does what a key stands for once.
    """

    def __init__(
        self, secret_key: str, *, api_base: str, version: str, account: str | None, settle_s: int
    ) -> None:
        _silence()
        self._attempt_ms = settle_s * SECOND_MS
        self._transport = Transport(max(self._attempt_ms // TRIES, 1))
        self._sdk = stripe.StripeClient(
            secret_key,
            stripe_account=account,
            stripe_version=version,
            base_addresses={"api": api_base},
            max_network_retries=0,
            http_client=self._transport,
        )
        self.key_refused = ""
        """Why Stripe does not take the secret key, as it last said; empty while it does."""

    async def create(self, parameters: Mapping[str, Any], key: str) -> Answered:
        """Create a PaymentIntent and confirm it.

        Errors: `StripeRefused`, `StripeFailed`.
        """
        return await self._insist(lambda: self._call("post", INTENTS, parameters, key))

    async def capture(self, intent_id: str) -> Answered:
        """Take what a PaymentIntent holds; errors as of `create`."""
        path, key = f"{_path(intent_id)}/capture", f"mpp_capture_{intent_id}"
        return await self._insist(lambda: self._call("post", path, {}, key))

    async def cancel(self, intent_id: str) -> Mapping[str, Any]:
        """Let go of a PaymentIntent that has not moved money; errors as of `create`."""
        answered = await self._call("post", f"{_path(intent_id)}/cancel", {})
        return answered.data

    async def retrieve(self, intent_id: str) -> Mapping[str, Any]:
        """Return a PaymentIntent as it is now; errors as of `create`."""
        return (await self._call("get", _path(intent_id))).data

    async def search(self, proof: str) -> list[Mapping[str, Any]]:
        """Return what the search index has of a token's PaymentIntents, each as it is now.

        It lags behind, and not every account has it: an empty answer says nothing. Errors: as of
        `create`.
        """
        query = f"metadata['mpp_proof']:'{proof}'"
        try:
            found = await self._call("get", "/v1/payment_intents/search", {"query": query})
        except StripeRefused as refused:
            if refused.is_untried:
                raise
            return []
        ids = [str(intent.get("id")) for intent in _objects(found.data) if _is_for(intent, proof)]
        return [await self.retrieve(intent_id) for intent_id in ids]

    async def created(self, proof: str, first_s: int, last_s: int) -> list[Mapping[str, Any]]:
        """Return a token's PaymentIntents among all that were created in a time: the last word.

        Errors: as of `create`; `StripeFailed` too where there are too many to look at.
        """
        between = {"created": {"gte": first_s, "lte": last_s}}
        pages = self._pages(INTENTS, between)
        return [intent async for intent in pages if _is_for(intent, proof)]

    async def held(self) -> list[Mapping[str, Any]]:
        """Return PaymentIntents of this software that hold money; errors as of `create`."""
        query = f"status:'requires_capture' AND metadata['mpp_sdk']:'{SDK}'"
        parameters: dict[str, Any] = {"query": query, "limit": PAGE}
        held: list[Mapping[str, Any]] = []
        for _ in range(PAGES_MAX):
            page = (await self._call("get", "/v1/payment_intents/search", parameters)).data
            held += _objects(page)
            if page.get("has_more") is not True:
                break
            parameters["page"] = page.get("next_page")
        return held

    async def refunds(self, intent_id: str) -> list[Mapping[str, Any]]:
        """Return what was given back of a PaymentIntent; errors as of `create`."""
        pages = self._pages(REFUNDS, {"payment_intent": intent_id})
        return [refund async for refund in pages]

    async def refund(self, parameters: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        """Give back what is left of a PaymentIntent; errors as of `create`."""
        return (await self._call("post", REFUNDS, parameters, key)).data

    async def account(self) -> Mapping[str, Any]:
        """Return the account whose key this is; errors as of `create`."""
        return (await self._call("get", "/v1/account")).data

    async def latest(self, path: str) -> Mapping[str, Any] | None:
        """Return the newest object of a list, None if it is empty; errors as of `create`."""
        found = _objects(await self._read(path, {"limit": 1}))
        return found[0] if found else None

    async def one(self, path: str, name: str) -> Mapping[str, Any] | None:
        """Return an object of a list by its id, None if there is none; errors as of `create`."""
        if not _ID.fullmatch(name):
            return None
        try:
            return await self._read(f"{path}/{name}", {})
        except StripeRefused as refused:
            if refused.status == MISSING:
                return None
            raise

    async def everything(
        self, path: str, parameters: Mapping[str, Any], after: str | None = None
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Yield all of a list, the newest first, however long it is; errors as of `create`.

        With `after` it begins behind the object of that id.
        """
        while True:
            asked = {**parameters, "limit": PAGE, "starting_after": after}
            page = await self._read(path, {n: v for n, v in asked.items() if v is not None})
            objects = _objects(page)
            for item in objects:
                yield item
            if page.get("has_more") is not True or not objects:
                return
            before, after = after, str(objects[-1].get("id"))
            if after == before:
                raise StripeFailed(f"{path}: a list that does not go on")

    async def close(self) -> None:
        """Release connections."""
        await self._transport.close_async()

    # Inside

    async def _pages(
        self, path: str, parameters: Mapping[str, Any]
    ) -> AsyncIterator[Mapping[str, Any]]:
        after: dict[str, Any] = {}
        for _ in range(PAGES_MAX):
            asked = {**parameters, "limit": PAGE, **after}
            page = (await self._call("get", path, asked)).data
            objects = _objects(page)
            for item in objects:
                yield item
            if page.get("has_more") is not True or not objects:
                return
            after = {"starting_after": objects[-1].get("id")}
        raise StripeFailed(f"more than {PAGES_MAX * PAGE} objects in that time")

    async def _read(self, path: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask again what moves nothing: one bad answer of a thousand is not to end a long read."""
        pause_ms = FIRST_PAUSE_MS
        for _ in range(TRIES - 1):
            try:
                return (await self._call("get", path, parameters)).data
            except StripeFailed:
                pass
            except StripeRefused as refused:
                if refused.status != BUSY:
                    raise
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(4 * pause_ms, PAUSE_MS_MAX)
        return (await self._call("get", path, parameters)).data

    async def _insist(self, call: Callable[[], Awaitable[Answered]]) -> Answered:
        """Make a call under its key until an answer says what became of it, or the time is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._attempt_ms / 1000
        may_be_done, pause_ms = False, FIRST_PAUSE_MS
        while True:
            try:
                answered = await call()
            except StripeFailed as failed:
                may_be_done = may_be_done or failed.sent
                last, is_final = str(failed), failed.is_final
            except StripeRefused as refused:
                # What is turned away at the door says nothing of an earlier try that got in.
                if not (may_be_done and (refused.is_untried or refused.is_key_mismatch)):
                    raise
                last, is_final = str(refused), False
            else:
                return Answered(answered.data, answered.is_replayed and not may_be_done)
            if not may_be_done or is_final or loop.time() + pause_ms / 1000 >= end:
                raise StripeFailed(last, sent=may_be_done)
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(2 * pause_ms, PAUSE_MS_MAX)

    async def _call(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Answered:
        options = {} if key is None else {"idempotency_key": key}
        try:
            answer = await self._sdk.raw_request_async(
                method, path, **(parameters or {}), **options
            )
        except stripe.APIConnectionError as error:
            cause = error.__cause__
            why = f"{path}: {type(cause).__name__}"
            # `from None`, here and below: a traceback would show the SDK's text, with the token.
            raise StripeFailed(why, sent=not _was_never_sent(cause)) from None
        except stripe.StripeError as error:
            self._raise_for(path, error)
        except (ValueError, RecursionError):
            raise StripeFailed(f"{path}: an answer that cannot be read") from None
        self.key_refused = ""
        data: Any = answer.data
        if not isinstance(data, dict) or not _ID.fullmatch(str(data.get("id", "list"))):
            raise StripeFailed(f"{path}: an answer that is no object of Stripe's")
        return Answered(data, _is_replayed(answer.headers))

    def _raise_for(self, path: str, error: stripe.StripeError) -> NoReturn:
        status = error.http_status or 0
        body: Any = error.json_body
        details = body.get("error") if isinstance(body, dict) else None
        if not isinstance(details, dict) or status == CONFLICT or not 400 <= status < SERVER_ERROR:
            if status in UNTRIED:
                details = {}  # whoever answered, it was before anything was done
            else:
                is_final = _is_replayed(error.headers or {}) and status >= SERVER_ERROR
                raise StripeFailed(f"{path}: HTTP {status}", is_final=is_final) from None
        refused = StripeRefused(status, _code(details), _object(details.get("payment_intent")))
        self.key_refused = "Stripe does not accept the secret key" if status == 401 else ""
        raise refused from None


def _silence() -> None:
    """Keep the SDK from logging what it sends, and from writing a file of its own."""
    logging.getLogger("stripe").setLevel(logging.WARNING)
    stripe.log = None
    stripe._util.STRIPE_LOG = None  # noqa: SLF001
    stripe.enable_telemetry = False


def _path(intent_id: str) -> str:
    if not _ID.fullmatch(intent_id):
        raise StripeRefused(404, "no_such_payment_intent")
    return f"/v1/payment_intents/{intent_id}"


def _code(details: Mapping[str, Any]) -> str:
    """Return the most telling code of an error, if it is one: texts may hold the token."""
    for name in ("decline_code", "code", "type"):
        code = details.get(name)
        if isinstance(code, str) and _CODE.fullmatch(code):
            return code
    return "no_code"


def _object(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, dict) else None


def _objects(page: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    data = page.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise StripeFailed("a list that cannot be read")
    return tuple(data)


def _is_for(intent: Mapping[str, Any], proof: str) -> bool:
    metadata = intent.get("metadata")
    return isinstance(metadata, dict) and metadata.get("mpp_proof") == proof


def _is_replayed(headers: Mapping[str, str]) -> bool:
    fields = {name.lower(): value.strip().lower() for name, value in headers.items()}
    return fields.get("idempotent-replayed") == "true"


def _was_never_sent(error: BaseException | None) -> bool:
    """Tell whether an error proves that no byte of the request reached anybody.

    That there was no connection does, whatever it was that failed: the name, the way, the port or
    the handshake.
    """
    return isinstance(error, aiohttp.ClientConnectorError)
