"""What has used the nonce of a permit of Permit2, as far as a chain tells."""

from collections.abc import Awaitable, Callable, Iterable

from mpp_gateway.protocol import permit2
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.blocks import search_back
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.request import Attempt, PermitKey
from mpp_gateway.rails.jsonrpc import hexadecimal

type Judge = Callable[[str], Awaitable[Attempt | None]]
"""Says what a transaction has done with the permit; None if it has not used it."""


async def trace(
    chain: ChainClient,
    key: PermitKey,
    payee: bytes,
    deadline: int,
    named: Iterable[str],
    judge: Judge,
) -> Attempt:
    """Return what `judge` says of the transaction that used the nonce, or that none has.

    `named` are transactions that may be it. A transfer to `payee` is looked for besides: what a
    node has denied to have taken is no longer known by its hash, and may have been sent all the
    same. Without that search its buyer would have paid for nothing. Errors: `RpcFailed`,
    `RpcRefused`, those of `judge`.
    """
    head = await chain.latest_block()
    used = await chain.permit_used(key.owner, key.nonce, hex(head.number))
    if not used and head.time_s > deadline:
        return Attempt(Settlement.REFUSED, detail="the permit expired unused")
    if not used:
        detail = "the permit is unused so far"
        return Attempt(Settlement.UNKNOWN, detail=detail, is_unused=True)
    for tx_hash in named:
        seen = await judge(tx_hash)
        if seen is not None and seen.state is Settlement.SETTLED:
            return seen

    async def within(first: int, last: int) -> Attempt | None:
        return await _within(chain, key, payee, judge, first, last)

    if found := await search_back(within, head.number):
        return found
    return Attempt(Settlement.UNKNOWN, detail="the nonce is used, by a transaction not found")


async def _within(
    chain: ChainClient, key: PermitKey, payee: bytes, judge: Judge, first: int, last: int
) -> Attempt | None:
    owner = hexadecimal(abi.address_word(key.owner))
    moved = [hexadecimal(abi.TRANSFER_TOPIC), owner, hexadecimal(abi.address_word(payee))]
    for log in await chain.logs(moved, first, last):
        if seen := await judge(log.tx_hash):
            return seen
    ended = [hexadecimal(abi.NONCES_GIVEN_UP_TOPIC), owner]
    for log in await chain.logs(ended, first, last, permit2.ADDRESS):
        word, mask = log.data[: abi.WORD], int.from_bytes(log.data[abi.WORD :])
        if int.from_bytes(word) == key.nonce >> 8 and mask >> (key.nonce & 0xFF) & 1:
            return Attempt(Settlement.REFUSED, log.tx_hash, "the payer has given up the nonce")
    return None
