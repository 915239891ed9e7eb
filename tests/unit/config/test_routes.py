"""Routes: prices, overrides, and combinations that would have no effect."""

import pytest

from mpp_gateway.config import Timeouts

EURO = """\
  euro:
    kind: evm
    chain_id: 8453
    token: {address: "0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42", name: EURC, decimals: 6}
    recipient: "0xcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
    units: [eur]
    submit: {facilitator: https://facilitator.example}
"""
COARSE = (
    EURO.replace("euro", "coarse")
    .replace("[eur]", "[usd, eur]")
    .replace("decimals: 6", "decimals: 2")
    .replace("0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42", "0x" + "cc" * 20)
)


def amounts(route):
    return [(price.method_name, price.amount_minor) for price in route.prices]


def test_a_charge_is_exact_minor_units_of_every_method_that_takes_the_currency(route):
    found = route('"GET /x": {charge: "0.05"}', root=EURO + COARSE)

    assert amounts(found) == [("evm", 50_000), ("coarse", 5)]


@pytest.mark.parametrize(
    ("text", "minor"), [("1", 1_000_000), ('"1"', 1_000_000), ('"0.000001"', 1)]
)
def test_whole_numbers_need_no_quotes(route, text, minor):
    assert [("evm", minor)] == amounts(route(f'"GET /x": {{charge: {text}}}'))


def test_an_unquoted_fraction_is_refused_with_its_cure(build):
    message = build.mistake(build.routes('"GET /x": {charge: 0.10}'))

    assert message.endswith('found 0.10, expected a decimal string: write "0.10" in quotes')


@pytest.mark.parametrize(
    "text",
    [
        "'0.0a'",
        "'-1'",
        "-1",
        "'1e3'",
        "1e3",
        "'1_0'",
        "' 1'",
        "'.5'",
        "'5.'",
        "'01'",
        "'\u0661'",
        "true",
        "[1]",
        "''",
        "'+1'",
        "'1,0'",
        "'NaN'",
    ],
)
def test_a_price_that_is_no_plain_decimal_is_refused(build, text):
    assert ".charge: found " in build.mistake(build.routes(f'"GET /x": {{charge: {text}}}'))


def test_a_price_finer_than_the_token_is_refused_and_never_rounded(build):
    message = build.mistake(build.routes('"GET /x": {charge: "0.0000001"}'))

    assert "at most 6 decimals, which is what the token of evm has" in message


@pytest.mark.parametrize("text", ["0", '"0.00"'])
def test_a_price_of_nothing_is_refused(build, text):
    assert "a price above zero" in build.mistake(build.routes(f'"GET /x": {{charge: {text}}}'))


def test_a_price_beyond_the_integers_of_the_chain_is_refused(build):
    text = build.routes(f'"GET /x": {{charge: "{"9" * 77}"}}')

    assert "fits the token's integers" in build.mistake(text)


def test_a_price_in_a_currency_that_no_method_takes_is_refused(build):
    text = f"currency: gbp\n{build.base}{build.services}"

    assert "none takes gbp" in build.mistake(text)


def test_a_paid_route_without_any_method_is_refused(build):
    assert "none takes usd" in build.mistake(f"secret_key: ${{SECRET}}\n{build.services}")


def test_units_are_base_units_of_the_one_method_in_force(route):
    found = route('"GET /x": {units: "50000", methods: [euro]}', root=EURO)

    assert amounts(found) == [("euro", 50_000)]


def test_units_for_several_methods_are_refused(build):
    text = build.routes('"GET /x": {units: 5}', root=EURO)

    assert "exactly one method in force" in build.mistake(text)


@pytest.mark.parametrize("text", ["0.5", "'1.5'", "-1", "'x'", "true"])
def test_units_are_whole(build, text):
    assert ".units: found" in build.mistake(build.routes(f'"GET /x": {{units: {text}}}'))


def test_offers_price_each_method_by_itself(route):
    found = route(
        '"GET /x": {offers: [{method: euro, units: "90"}, {method: evm, amount: "0.1"}]}', root=EURO
    )

    assert amounts(found) == [("euro", 90), ("evm", 100_000)]
    assert {"charge"} == {price.intent for price in found.prices}


@pytest.mark.parametrize(
    ("offers", "expected"),
    [
        ("[]", "a list that is not empty"),
        ("[{method: evm}]", "either `amount` or `units`"),
        ("[{method: evm, amount: 1, units: 1}]", "either `amount` or `units`"),
        ("[{method: evn, amount: 1}]", "did you mean `evm`?"),
        ("[{method: evm, amount: 1}, {method: evm, units: 1}]", "each method and intent once"),
        ("[{method: euro, amount: 1}]", "euro does not take usd at par"),
        ("[{method: evm, intent: session, amount: 1}]", "`charge`"),
        ("[{method: evm, amount: 0.5}]", 'write "0.5" in quotes'),
        ("[{method: evm, amount: 1, x: 1}]", "unknown key"),
        ("{method: evm}", "a list"),
    ],
)
def test_an_offer_that_cannot_be_made_is_refused(build, offers, expected):
    text = build.routes(f'"GET /x": {{offers: {offers}}}', root=EURO)

    assert expected in build.mistake(text)


def test_a_route_narrows_the_methods(route):
    assert amounts(route('"GET /x": {charge: "0.05", methods: [coarse]}', root=EURO + COARSE)) == [
        ("coarse", 5)
    ]


def test_a_service_narrows_the_methods_of_its_routes(route):
    assert amounts(
        route('"GET /x": {charge: "0.05"}', service="methods: [coarse]", root=EURO + COARSE)
    ) == [("coarse", 5)]


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ("[evn]", "did you mean `evm`?"),
        ("[evm, evm]", "each method once"),
        ("[euro]", "one of the methods of the service"),
        ("[]", "not empty"),
        ("evm", "a list"),
    ],
)
def test_a_narrowing_that_names_no_usable_method_is_refused(build, methods, expected):
    text = build.routes(
        f'"GET /x": {{charge: 1, methods: {methods}}}', service="methods: [evm]", root=EURO
    )

    assert expected in "\n".join(build.mistakes(text))


def test_a_method_named_for_a_price_that_it_does_not_take_is_refused(build):
    text = build.routes('"GET /x": {charge: 1, methods: [evm, euro]}', root=EURO)

    assert (
        "methods.1: found 'euro', expected a method whose `units` or `rates` contain usd"
        in build.mistake(text)
    )


RATED = EURO.replace("units: [eur]", 'units: [eur]\n    rates: {usd: "0.925"}')


@pytest.mark.parametrize(
    ("text", "minor"), [("1", 925_000), ("0.05", 46_250), ("0.000001", 1), ("0.0000000001", 1)]
)
def test_another_currency_is_taken_at_the_rate_and_rounded_up_for_the_seller(route, text, minor):
    by_charge = route(f'"GET /x": {{charge: "{text}", methods: [euro]}}', root=RATED)
    by_offer = route(f'"GET /x": {{offers: [{{method: euro, amount: "{text}"}}]}}', root=RATED)
    assert amounts(by_charge) == amounts(by_offer) == [("euro", minor)]


def test_a_charge_without_methods_is_offered_at_the_rate_too(route):
    assert amounts(route('"GET /x": {charge: "0.05"}', root=RATED)) == [
        ("evm", 50_000),
        ("euro", 46_250),
    ]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ('{usd: "0"}', "a rate above zero"),
        ('{usd: "0.00"}', "a rate above zero"),
        ('{usd: "-1"}', "a decimal string"),
        ("{usd: 0.9}", 'write "0.9" in quotes'),
        ('{eur: "1"}', "eur in `units` or in `rates`, not in both"),
        ('{"1": "1"}', "a currency such as usd"),
    ],
)
def test_a_rate_that_means_nothing_is_refused(build, rates, expected):
    root = RATED.replace('{usd: "0.925"}', rates)
    assert expected in "\n".join(build.mistakes(build.routes('"GET /x": free', root=root)))


def test_a_recipient_is_overridden_by_service_route_and_offer(build):
    one, two, three = ("0x" + digit * 40 for digit in "123")
    config = build.load(
        build.routes(
            f'"GET /a": {{charge: 1}}, "GET /b": {{charge: 1, recipient: "{two}"}},'
            f' "GET /c": {{offers: [{{method: evm, amount: 1, recipient: "{three}"}}]}}',
            service=f'recipient: "{one}"',
        )
    )

    assert [one, two, three] == [r.prices[0].recipient for r in config.services["api"].routes]


def test_a_recipient_of_nobody_is_refused(build):
    text = build.routes(f'"GET /x": {{charge: 1, recipient: "0x{"0" * 40}"}}')

    assert "other than zero" in build.mistake(text)


@pytest.mark.parametrize("value", ["free", "{free: true}"])
def test_a_free_route_has_no_prices(route, value):
    found = route(f'"GET /x": {value}')

    assert (found.free, found.prices) == (True, ())


@pytest.mark.parametrize("value", ["true", "fre", "'0.05'", "0.05", "[free]", "", "FREE"])
def test_a_route_is_free_or_a_mapping(build, value):
    assert 'expected `free` or a price such as {charge: "0.05"}' in build.mistake(
        build.routes(f'"GET /x": {value}')
    )


def test_a_route_that_is_neither_free_nor_priced_is_refused(build):
    assert "it needs a price" in build.mistake(build.routes('"GET /x": {title: Hello}'))


@pytest.mark.parametrize(
    "more",
    [
        "charge: 1",
        "units: 1",
        "offers: [{method: evm, amount: 1}]",
        "methods: [evm]",
        "recipient: '0x1111111111111111111111111111111111111111'",
        "upto: true",
        "settle: before",
        "on_failure: refund",
        "digest: true",
        "charge_on: [404]",
    ],
)
def test_a_key_about_money_on_a_free_route_is_refused(build, more):
    assert "has no effect on a free route" in build.mistake(
        build.routes(f'"GET /x": {{free: true, {more}}}')
    )


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("charge: 1, units: 1", "no effect beside `charge`"),
        ("charge: 1, offers: [{method: evm, amount: 1}]", "no effect beside `charge`"),
        ("offers: [{method: evm, amount: 1}], methods: [evm]", "no effect beside `offers`"),
        ("charge: 1, digest: true", "GET requests have no body"),
        ("charge: 1, options: {a: 1}", "no `rewrite_request`"),
    ],
)
def test_keys_without_effect_together_are_refused(build, keys, expected):
    assert expected in build.mistake(build.routes(f'"GET /x": {{{keys}}}'))


def test_a_sale_by_use_needs_a_method_that_can_settle_less(build):
    text = build.routes('"GET /x": {charge: 1, upto: true}')

    assert "`upto` needs a method with `x402: true`" in build.mistake(text)
    node = "rpc_url: https://rpc.example"
    able = text.replace(FACILITATED, f"{FACILITATED}\n    {node}\n    x402: true")
    assert "`rpc_url`" in build.mistake(able.replace(f"    {node}\n", ""))
    posted = able.replace("GET /x", "POST /x")
    assert "`digest: true`" in build.mistake(posted)
    assert build.load(posted.replace("upto: true", "upto: true, digest: true"))
    assert able != text
    assert build.load(able).services["api"].routes[0].upto is True
    ahead = able.replace("upto: true", "upto: true, settle: before")
    assert "before the upstream has said what was used" in build.mistake(ahead)


OWN_KEY = "0x" + "11" * 32
OWN_ACCOUNT = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
OWN = f'rpc_url: https://rpc.example\n    submit: {{private_key: "{OWN_KEY}", max_fee_gwei: "1"}}'
FACILITATED = "submit: {facilitator: https://facilitator.example}"


@pytest.mark.parametrize(
    ("recipient", "submit", "route", "may"),
    [
        (OWN_ACCOUNT, OWN, "", True),
        ("0xabababababababababababababababababababab", OWN, "", False),
        ("0xabababababababababababababababababababab", OWN, f", recipient: '{OWN_ACCOUNT}'", True),
        (OWN_ACCOUNT, OWN, ", recipient: '0xabababababababababababababababababababab'", False),
        (OWN_ACCOUNT, FACILITATED, "", False),
    ],
)
def test_a_refund_is_promised_only_with_the_key_of_who_is_paid(
    build, recipient, submit, route, may
):
    text = build.routes(f'"GET /x": {{charge: 1, on_failure: refund{route}}}')
    text = text.replace("0xabababababababababababababababababababab", recipient, 1)
    text = text.replace(FACILITATED, submit)
    if may:
        assert build.load(text).services["api"].routes[0].on_failure == "refund"
    else:
        message = build.mistake(text)
        assert "is the key of the recipient" in message
        assert OWN_KEY not in message


def test_a_price_on_options_is_refused(build):
    assert "OPTIONS cannot be paid for" in build.mistake(build.routes('"OPTIONS /x": {charge: 1}'))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/*", "POST /x"),
        ("POST /*", "POST /x"),
        ("/x", "PUT /x"),
        ("POST /:a", "POST /x"),
        ("/x/*", "GET /x/:a/b"),
    ],
)
def test_a_price_hidden_behind_an_earlier_route_is_refused(build, first, second):
    text = build.routes(f'"{first}": free, "{second}": {{charge: 1}}')
    message = build.mistake(text)

    assert f'"{first}" above takes all its requests' in message


def test_an_earlier_route_for_another_method_hides_nothing(build):
    build.load(build.routes('"GET /*": free, "POST /x": {charge: 1}, "/y": {charge: 1}'))


def test_a_paid_route_for_every_method_does_not_hide_options(build):
    build.load(build.routes('"/x": {charge: 1}, "OPTIONS /x": free'))


def test_timeouts_are_overridden_value_by_value(build):
    config = build.load(
        build.routes(
            '"GET /x": {charge: 1, timeouts: {settle_s: 4}}',
            service="timeouts: {idle_s: 3}",
            root="timeouts: {connect_s: 2}\n",
        )
    )

    assert Timeouts(2.0, 60.0, 3.0, 4.0) == config.services["api"].routes[0].timeouts


def test_a_route_on_which_no_payment_outlives_the_upstream_is_refused(build):
    text = build.routes('"GET /x": {charge: 1, timeouts: {first_byte_s: 265}}')

    assert (
        build.mistake(text)
        == 'services.api.routes."GET /x".timeouts: connect_s + first_byte_s + settle_s is 300'
        " and must be less than challenge_ttl_s, 300"
    )


def test_deadlines_that_are_wrong_for_all_routes_are_reported_once(build):
    text = build.routes(
        '"GET /x": {charge: 1}, "GET /y": {charge: 1}', root="timeouts: {first_byte_s: 900}\n"
    )

    assert build.mistake(text).startswith("timeouts: connect_s")


@pytest.mark.parametrize("route", ["free", "{charge: 1, settle: before}"])
def test_a_slow_upstream_is_no_risk_where_nothing_waits_for_it(build, route):
    build.load(build.routes(f'"GET /x": {route}', root="timeouts: {first_byte_s: 900}\n"))


def test_a_delivery_is_2xx_or_what_the_route_says(route):
    found = route('"GET /x": {charge: 1, charge_on: [404, 422]}')

    assert [
        status for status in (200, 204, 302, 400, 404, 422, 500) if found.is_delivered(status)
    ] == [200, 204, 404, 422]


@pytest.mark.parametrize("codes", ["[200]", "[101]", "[600]", "[]", "404", "['x']"])
def test_other_status_codes_are_refused(build, codes):
    assert "charge_on" in build.mistake(
        build.routes(f'"GET /x": {{charge: 1, charge_on: {codes}}}')
    )


def test_options_are_handed_on_frozen(route):
    found = route(
        '"POST /x": {charge: 1, options: {a: [1, {b: c}]}}', service="rewrite_request: json:dumps"
    )

    assert found.options == {"a": (1, {"b": "c"})}
    with pytest.raises(TypeError):
        found.options["a"][1]["b"] = "d"


def test_everything_else_of_a_route_is_kept(route):
    found = route(
        '"POST /x": {charge: 1, digest: true, settle: before, title: T, description: D,'
        " docs_llms_url: https://d.example, body_limit_bytes: 5}"
    )

    assert (
        found.digest,
        found.settle,
        found.title,
        found.description,
        found.docs_llms_url,
        found.body_limit_bytes,
    ) == (True, "before", "T", "D", "https://d.example", 5)


def test_a_body_limit_is_the_general_one_by_default(route):
    found = route('"POST /x": {charge: 1}', root="limits: {request_body_bytes: 7}\n")

    assert found.body_limit_bytes == 7
