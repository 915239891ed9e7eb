"""Transactions signed with one key (EIP-1559)."""

from collections.abc import Mapping
from typing import Any

from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.rails.evm.submissions import Fees, Signed


class Signer:
    """One key on one chain; `address` is its account."""

    def __init__(self, chain_id: int, private_key: bytes) -> None:
        self._chain_id = chain_id
        self._account = Account.from_key(private_key)
        self.address = parse_address(self._account.address)

    def sign(self, nonce: int, to: bytes, payload: bytes, gas: int, fees: Fees) -> Signed:
        """Return a call of `to` under that nonce."""
        return self._signed(
            {
                "type": 2,
                "chainId": self._chain_id,
                "nonce": nonce,
                "to": checksum(to),
                "value": 0,
                "data": payload,
                "gas": gas,
            },
            fees,
        )

    def is_nothing(self, signed: Signed) -> bool:
        """Tell whether a transaction of ours only fills its nonce."""
        fields = TypedTransaction.from_bytes(HexBytes(signed.raw)).as_dict()
        return bytes(fields["to"]) == self.address and not fields["data"]

    def resign(self, earlier: Signed, fees: Fees) -> Signed:
        """Return the same transaction, of the same nonce, with other fees."""
        fields = TypedTransaction.from_bytes(HexBytes(earlier.raw)).as_dict()
        unsigned = {name: fields[name] for name in fields if name not in ("v", "r", "s")}
        return self._signed(unsigned, fees)

    def _signed(self, unsigned: Mapping[str, Any], fees: Fees) -> Signed:
        signed = self._account.sign_transaction(
            {
                **unsigned,
                "maxFeePerGas": fees.max_fee_wei,
                "maxPriorityFeePerGas": fees.tip_wei,
            }
        )
        return Signed("0x" + bytes(signed.hash).hex(), bytes(signed.raw_transaction), fees)
