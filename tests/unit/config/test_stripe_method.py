"""Payment methods: a Stripe account. What would lose money or sell nothing is refused or said."""

import pytest

GOOD = {"secret_key": "sk_test_123", "network_id": "profile_1"}


def text(price='"1.00"', root="", more="", **keys):
    lines = "".join(f"    {key}: {value}\n" for key, value in (GOOD | keys).items() if value)
    routes = f'{{"GET /x": {{charge: {price}}}{more}}}'
    services = f"services:\n  api: {{base_url: https://a.example, routes: {routes}}}\n"
    return f"secret_key: ${{SECRET}}\n{root}methods:\n  stripe:\n{lines}{services}"


def price_of(config):
    (price,) = config.services["api"].routes[0].prices
    return price


def test_a_price_in_the_currency_is_in_its_minor_units(build):
    price = price_of(build.load(text()))

    assert (price.amount_minor, price.asset.code, price.asset.decimals) == (100, "usd", 2)


@pytest.mark.parametrize(
    ("currency", "price", "minor"),
    [("jpy", "500", 500), ("krw", "50", 50), ("eur", '"0.50"', 50), ("isk", "100", 10_000)],
)
def test_minor_units_are_those_of_the_currency(build, currency, price, minor):
    config = build.load(text(price, f"currency: {currency}\n", currency=currency))

    assert price_of(config).amount_minor == minor


@pytest.mark.parametrize(
    ("currency", "price", "said"),
    [
        ("usd", '"0.49"', "Stripe charges no less than 0.50 usd"),
        ("jpy", "49", "Stripe charges no less than 50 jpy"),
        ("huf", "174", "Stripe charges no less than 175.00 huf"),
    ],
)
def test_a_route_that_only_sells_below_the_minimum_is_refused(build, currency, price, said):
    message = build.mistake(text(price, f"currency: {currency}\n", currency=currency))

    assert message.startswith('services.api.routes."GET /x".charge: found ')
    assert message.endswith(f"a higher price: stripe is not offered: {said}")


def test_an_offer_below_the_minimum_is_withheld_and_said(build):
    evm = (
        '  evm: {chain_id: 1, recipient: "0xabababababababababababababababababababab",\n'
        '   token: {address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: A, decimals: 6},\n'
        "    submit: {facilitator: https://f.example}}\n"
    )
    config = build.load(text('"0.49"').replace("services:", f"{evm}services:"))

    assert price_of(config).method_name == "evm"
    said = [warning.message for warning in config.warnings]
    assert "stripe is not offered: Stripe charges no less than 0.50 usd" in said


@pytest.mark.parametrize(
    ("keys", "path", "expected"),
    [
        ({"secret_key": "pk_test_1"}, "secret_key", "a secret or restricted key of Stripe"),
        ({"network_id": '"a b"'}, "network_id", "a network profile"),
        ({"currency": "kwd"}, "", "which has three decimals"),
        ({"currency": "usdc"}, "currency", "a currency of three letters"),
        ({"payment_method_types": "[]"}, "payment_method_types", "a list that is not empty"),
        ({"payment_method_types": "[card, card]"}, "", "each of `payment_method_types` once"),
        ({"metadata": "{mpp_proof: x}"}, "metadata", "other keys than those of the protocol"),
        ({"metadata": "{externalId: x}"}, "metadata", "other keys than those of the protocol"),
        ({"stripe_version": "latest"}, "stripe_version", "a version such as"),
        ({"api_base": "http://stripe.example"}, "api_base", "an https:// URL"),
        ({"connect": "{}"}, "connect", "one of the keys of Connect"),
        ({"connect": "{stripe_account: me}"}, "connect.stripe_account", "acct_"),
        ({"connect": "{application_fee_minor: 5}"}, "connect", "only beside a connected account"),
        ({"connect": "{transfer_amount_minor: 5}"}, "connect", "only beside `transfer_dest"),
        (
            {"connect": "{stripe_account: acct_1, transfer_destination: acct_2}"},
            "connect",
            "without `transfer_destination`",
        ),
        (
            {
                "connect": "{transfer_destination: acct_2, application_fee_minor: 1,"
                " transfer_amount_minor: 1}"
            },
            "connect",
            "either `application_fee_minor` or",
        ),
    ],
)
def test_settings_that_stripe_would_refuse_are_refused_here(build, keys, path, expected):
    mistakes = build.mistakes(text(**keys))

    where = f"methods.stripe.{path}" if path else "methods.stripe"
    assert any(m.startswith(where) and expected in m for m in mistakes), mistakes


@pytest.mark.parametrize("key", ["application_fee_minor", "transfer_amount_minor"])
def test_more_than_the_price_cannot_be_kept_or_sent_on(build, key):
    connect = f"{{transfer_destination: acct_1, {key}: 101}}"

    message = build.mistake(text(connect=connect))

    assert f"at least 101 minor units, the `connect.{key}` of the method" in message
    assert build.load(text(connect=connect.replace("101", "100")))


def test_a_recipient_is_refused_for_the_key_says_who_is_paid(build):
    routes = text().replace("{charge:", "{recipient: acct_1, charge:")

    assert "no `recipient` with Stripe" in build.mistake(routes)


def test_a_price_above_stripes_maximum_is_refused(build):
    assert "which is Stripe's maximum" in build.mistake(text("1000000"))


def test_a_mistake_shows_no_key(build):
    message = build.mistake(text(secret_key="sk_wrong_marked"))

    assert "marked" not in message


def test_a_refund_may_be_asked_for(build):
    config = build.load(text().replace("{charge:", "{on_failure: refund, charge:"))

    assert config.services["api"].routes[0].on_failure == "refund"


def test_a_route_that_does_not_say_leaves_its_failures_to_the_rail(build):
    assert build.load(text()).services["api"].routes[0].on_failure is None
