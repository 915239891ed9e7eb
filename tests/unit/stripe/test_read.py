"""Reading a credential with a token: what a buyer, or somebody who saw one, may try."""

from dataclasses import replace

import pytest

from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.money import Amount, Asset
from mpp_gateway.protocol.problems import (
    InvalidChallenge,
    InvalidPayload,
    PaymentExpired,
)
from mpp_gateway.rails.base import Binding, Presented
from mpp_gateway.rails.stripe.client import StripeClient
from mpp_gateway.rails.stripe.request import Charge, ConnectTerms, StripeSettings, proof_id_of
from mpp_gateway.rails.stripe.seller import StripeRail
from tests.support.evm import BINDING, SCHEME

NOW = 1_900_000_000
USD = Asset("usd", 2)
SPT = "spt_marked_secret"
SETTINGS = StripeSettings("profile_1", "usd", is_live=False)


def rail_of(settings=SETTINGS, name="stripe") -> StripeRail:
    client = StripeClient(
        "sk_test_1", api_base="http://127.0.0.1:1", version="v", account=None, settle_s=1
    )
    return StripeRail(name, settings, SCHEME, client)


RAIL = rail_of()
OFFER = RAIL.offer(Amount(100, USD), None, None)


def issue(rail=RAIL, offer=OFFER, entropy: bytes = b"\0" * 16) -> Challenge:
    ((_, text),) = rail.challenge(offer, BINDING, NOW, entropy)
    return Challenge.parse(text)


def read(payload, *, rail=RAIL, offers=(OFFER,), challenge=None, now_s=NOW, binding=BINDING):
    credential = Credential(challenge or issue(rail, offers[0]), payload)
    head = RequestHead("GET", "/x", (("Authorization", credential.format()),))
    return rail.read(head, offers, binding, now_s)


def test_a_token_is_named_by_its_digest_and_shown_nowhere():
    presented = read({"spt": SPT})

    assert isinstance(presented, Presented)
    assert presented.proof_id == proof_id_of(SPT) == presented.account
    assert presented.payee == "stripe:test:profile_1"
    assert presented.amount_minor == 100
    assert SPT not in repr(presented)
    assert SPT not in repr(presented.evidence)
    assert SPT not in repr(presented.record)


def test_one_token_is_one_proof_whatever_challenge_it_is_shown_with():
    first, second = issue(), issue(entropy=b"\1" * 16)

    assert first.id != second.id
    shown = [read({"spt": SPT}, challenge=challenge) for challenge in (first, second)]
    assert len({presented.proof_id for presented in shown}) == 1


@pytest.mark.parametrize(
    "spt",
    [
        None,
        "",
        5,
        "pm_card_visa",
        "spt_",
        "spt_a b",
        "spt_a\r\nX: y",
        "spt_" + "a" * 191,
        ["spt_a"],
    ],
)
def test_what_is_no_token_is_refused_before_anything_is_stored(spt):
    with pytest.raises(InvalidPayload):
        read({"spt": spt})


def test_the_longest_token_fits_an_idempotency_key_of_stripes():
    presented = read({"spt": "spt_" + "a" * 190})

    assert len(Charge(100, "spt_" + "a" * 190, "p", presented.challenge_id, NOW).key) <= 255


def test_a_challenge_that_has_expired_is_refused_before_its_token_is_looked_at():
    with pytest.raises(PaymentExpired):
        read({"spt": "not even a token"}, now_s=NOW + SCHEME.ttl_s + 1)


@pytest.mark.parametrize("member", ["id", "realm", "request", "expires", "opaque"])
def test_a_changed_challenge_is_refused_before_its_token_is_looked_at(member):
    changes = {
        "id": "x" * 43,
        "realm": "other.example",
        "request": rail_of().offer(Amount(1, USD), None, None).request_encoded,
        "expires": "2099-01-01T00:00:00Z",
        "opaque": "e30",
    }
    with pytest.raises(InvalidChallenge):
        read({"spt": "not even a token"}, challenge=replace(issue(), **{member: changes[member]}))


def test_a_credential_of_another_route_buys_nothing_here():
    with pytest.raises(InvalidChallenge):
        read({"spt": SPT}, binding=Binding(BINDING.realm, "another-scope"))


@pytest.mark.parametrize(
    "settings",
    [replace(SETTINGS, network_id="profile_2"), replace(SETTINGS, currency="eur")],
    ids=["account", "currency"],
)
def test_a_credential_for_another_account_or_currency_is_left_to_its_own_rail(settings):
    other = rail_of(settings, "other")
    price = Amount(100, Asset(settings.currency, 2))
    challenge = issue(other, other.offer(price, None, None))

    assert read({"spt": SPT}, challenge=challenge) is None


def test_members_that_a_buyer_adds_say_nothing_about_whose_money_it_is():
    presented = read({"spt": SPT, "stripeAccount": "acct_evil", "transfer_data": {"x": 1}})
    charge = Charge(100, SPT, presented.proof_id, presented.challenge_id, NOW)

    assert "acct_evil" not in repr(charge.parameters(SETTINGS))
    assert not {"transfer_data", "on_behalf_of"} & set(charge.parameters(SETTINGS))


def test_connect_is_in_the_charge_and_never_in_a_challenge():
    connect = ConnectTerms(
        on_behalf_of="acct_a",
        application_fee_minor=7,
        transfer_destination="acct_b",
        transfer_group="group",
    )
    settings = replace(SETTINGS, connect=connect)
    charge = Charge(100, SPT, "stripe:spt:ab", "id", NOW).parameters(settings)

    assert charge["transfer_data"] == {"destination": "acct_b"}
    assert (charge["application_fee_amount"], charge["on_behalf_of"]) == (7, "acct_a")
    assert "acct" not in repr(rail_of(settings).offer(Amount(100, USD), None, None).request)


def test_metadata_is_in_challenge_and_charge_and_replaces_nothing_of_ours():
    settings = replace(SETTINGS, metadata={"order": "7"})
    offer = rail_of(settings).offer(Amount(100, USD), None, None)
    charge = Charge(100, SPT, "stripe:spt:ab", "id", NOW)

    assert offer.request["methodDetails"]["metadata"] == {"order": "7"}
    found = charge.parameters(settings)["metadata"]
    assert found.items() >= {"order": "7", "challenge_id": "id", "mpp_proof": "ab"}.items()
    assert SPT not in repr(found)


@pytest.mark.parametrize(
    ("sent", "is_good"), [("order-1", True), ("order-2", False), (None, False), (1, False)]
)
def test_an_external_id_that_is_asked_for_comes_back_as_it_is(sent, is_good):
    rail = rail_of(replace(SETTINGS, external_id="order-1"))
    offer = rail.offer(Amount(100, USD), None, None)
    payload = {"spt": SPT} if sent is None else {"spt": SPT, "externalId": sent}

    if is_good:
        assert read(payload, rail=rail, offers=(offer,)) is not None
    else:
        with pytest.raises(InvalidChallenge):
            read(payload, rail=rail, offers=(offer,))


def test_an_external_id_of_the_buyers_own_is_ignored():
    assert read({"spt": SPT, "externalId": "mine"}) is not None


def test_play_money_and_real_money_are_two_purses():
    assert SETTINGS.payee != replace(SETTINGS, is_live=True).payee
    connected = replace(SETTINGS, connect=ConnectTerms(stripe_account="acct_1"))
    assert SETTINGS.payee != connected.payee


def test_a_price_in_another_currency_is_no_offer():
    with pytest.raises(ValueError, match="the price is in eur"):
        RAIL.offer(Amount(100, Asset("eur", 2)), None, None)


@pytest.mark.parametrize(("manual", "at"), [(False, "before"), (True, "headers")])
def test_when_it_settles_follows_from_when_money_moves(manual, at):
    capabilities = rail_of(replace(SETTINGS, captures_manually=manual)).capabilities

    assert (capabilities.settles_at, capabilities.on_failure) == (at, "refund")
    assert capabilities.can_verify_without_moving_money is manual
