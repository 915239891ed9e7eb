"""One x402 facilitator over HTTP: questions of any scheme, bounded answers, secrets kept."""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from mpp_gateway.config.values import HEADER_NAME, OWN_HEADERS, VISIBLE_ASCII
from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.rails.jsonrpc import was_never_sent

ANSWER_MAX = 256 * 1024
X402_VERSION = 2
HOOK_S = 5
HOOK_THREADS = 4

NOT_PROCESSED = frozenset({400, 401, 402, 403, 404, 405, 406, 410, 411, 413, 414, 415, 422, 429})
"""Statuses that, without a verdict, never came from the part that moves money."""


def monotonic_ms() -> int:
    """Return the clock of the running loop, in milliseconds: for deadlines."""
    return int(asyncio.get_running_loop().time() * 1000)


class Unanswered(Exception):
    """No answer that can be read. `status` is 0 where there was no answer at all."""

    def __init__(self, message: str, *, left: bool = True, status: int = 0) -> None:
        super().__init__(message)
        self.left = left
        """False only if no byte of the question has left: another may be asked to settle."""
        self.status = status

    @property
    def may_be_processed(self) -> bool:
        """False only if it is certain that the question came to nothing."""
        return self.left and self.status not in NOT_PROCESSED


@dataclass(frozen=True, slots=True)
class Question:
    """What `/verify` and `/settle` are asked: a payment and what it has to meet."""

    payload: Mapping[str, Any]
    requirements: Mapping[str, Any]
    version: int = X402_VERSION
    settler: bytes | None = None
    """The only account that can settle it; None: anybody."""
    transfer_method: str | None = None
    """How the money moves, where the scheme knows several ways; None: as is usual."""

    @property
    def body(self) -> bytes:
        """The question as it is sent."""
        return jcs.dumps(
            {
                "x402Version": self.version,
                "paymentPayload": self.payload,
                "paymentRequirements": self.requirements,
            }
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON object, with the status that it came under."""

    status: int
    members: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FacilitatorRequest:
    """What an `auth_hook` is told of the request that it signs for."""

    method: str
    host: str
    """Host, with the port where it is not the scheme's own."""
    path: str


type AuthHook = Callable[[FacilitatorRequest], Any]
"""Returns header fields, or an awaitable of them."""


class FacilitatorClient:
    """Asks one facilitator; `name` is its host, the only part of it that messages show."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        auth_hook: AuthHook | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = dict(headers or {})
        self._auth_hook = auth_hook
        self._session: aiohttp.ClientSession | None = None
        self._threads: ThreadPoolExecutor | None = None

    @property
    def name(self) -> str:
        """Host and port."""
        return urlsplit(self._url).netloc

    async def ask(self, path: str, question: Question, within_ms: int) -> Answer:
        """Return the answer of `/verify` or `/settle`; raises `Unanswered`."""
        return await self._request("POST", path, question.body, within_ms)

    async def look(self, path: str, within_ms: int) -> Answer:
        """Return the answer to a GET; raises `Unanswered`."""
        return await self._request("GET", path, None, within_ms)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _request(self, method: str, path: str, body: bytes | None, within_ms: int) -> Answer:
        deadline_ms = monotonic_ms() + within_ms
        headers = {"Content-Type": "application/json"} if body is not None else {}
        # Not under the limit of the request: running out of time here, nothing has been sent.
        headers |= self._headers | await self._signed(method, path, min(within_ms, HOOK_S * 1000))
        left_ms = deadline_ms - monotonic_ms()
        try:
            async with asyncio.timeout(left_ms / 1000):
                return await self._exchange(method, path, body, headers)
        except TimeoutError as error:
            raise Unanswered(f"{self.name} {path}: timed out") from error

    async def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        about = f"{self.name} {path}"
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                raw = await response.content.read(ANSWER_MAX + 1)
                while len(raw) <= ANSWER_MAX and (more := await response.content.read(ANSWER_MAX)):
                    raw += more
                status = response.status
        except (aiohttp.ClientError, OSError) as error:
            left = not (was_never_sent(error) or isinstance(error, aiohttp.ClientConnectorDNSError))
            kind = type(error).__name__
            raise Unanswered(f"{about}: {kind}", left=left) from error
        try:
            members = jcs.loads(raw[: ANSWER_MAX + 1], size_max=ANSWER_MAX)
        except ParseError as error:
            raise Unanswered(f"{about}: HTTP {status}, no JSON", status=status) from error
        if not isinstance(members, dict):
            raise Unanswered(f"{about}: HTTP {status}, not an object", status=status)
        return Answer(status, members)

    async def _signed(self, method: str, path: str, within_ms: int) -> dict[str, str]:
        """Return what the hook adds. Its failure, of whatever kind, means that nothing was sent."""
        if self._auth_hook is None:
            return {}
        parts = urlsplit(self._url)
        request = FacilitatorRequest(method, parts.netloc, parts.path + path)
        try:
            async with asyncio.timeout(within_ms / 1000):
                fields = await self._called(self._auth_hook, request)
        except Exception as error:  # noqa: BLE001 - foreign code; its words may hold a secret
            kind = type(error).__name__
            raise Unanswered(f"{self.name}: auth_hook: {kind}", left=False) from None
        if not _are_fields(fields):
            message = f"{self.name}: auth_hook: returned no header fields"
            raise Unanswered(message, left=False)
        return dict(fields)

    async def _called(self, hook: AuthHook, request: FacilitatorRequest) -> Any:
        if inspect.iscoroutinefunction(hook):
            return await hook(request)
        # In a thread: a hook that fetches a token must not stop every other request meanwhile.
        if self._threads is None:
            self._threads = ThreadPoolExecutor(HOOK_THREADS, thread_name_prefix="auth-hook")
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, hook, request)
        return await found if inspect.isawaitable(found) else found


def _are_fields(fields: Any) -> bool:
    return isinstance(fields, Mapping) and all(
        isinstance(name, str)
        and isinstance(value, str)
        and HEADER_NAME.match(name)
        and name.lower() not in OWN_HEADERS
        # A line break would write fields of its own into the request.
        and VISIBLE_ASCII.match(value)
        for name, value in fields.items()
    )
