"""`mpp-gateway pay` on Tempo where a seller has shares, or pays the fee: a gateway for each."""

from mpp_gateway.cli.exits import OK
from mpp_gateway.crypto.secp256k1 import address_of
from tests.process.test_pay_tempo import ROUTES, fee_of, pay, receipt_in
from tests.support.anvil import address, anvil, new_key
from tests.support.tempo import PRICE, PURSE, tempo_shop


def test_shares_are_paid_in_the_same_transaction(tmp_path):
    partner = new_key()
    share = f', splits: [{{recipient: "{address(partner)}", percent: "2.5"}}]'
    with tempo_shop(tmp_path, method=share, routes=ROUTES) as shop:
        done = pay(shop, "/api/paid")

        assert done.code == OK, done.err
        assert f"shares:    0.00025 for {address(partner)}" in done.err
        assert (shop.balance(), shop.anvil.balance(address_of(partner))) == (PRICE - 250, 250)
        fee = fee_of(shop, receipt_in(done.err)["reference"])
        assert PURSE - shop.purse() == PRICE + fee


def test_where_the_seller_pays_the_fee_the_buyer_pays_the_price_alone(tmp_path):
    sponsor = new_key()
    method = f', sponsor: {{private_key: "0x{sponsor.hex()}"}}'
    anvil().fund(address_of(sponsor), PURSE)
    with tempo_shop(tmp_path, method=method, routes=ROUTES) as shop:
        done = pay(shop, "/api/paid")

        assert done.code == OK, done.err
        assert "fee:       paid by the seller" in done.err
        assert (shop.balance(), PURSE - shop.purse()) == (PRICE, PRICE)
        fee = fee_of(shop, receipt_in(done.err)["reference"])
        assert PURSE - shop.anvil.balance(address_of(sponsor)) == fee
