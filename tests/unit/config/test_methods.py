"""Payment methods: EVM tokens."""

import pytest

from mpp_gateway.config.methods import KINDS
from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol.money import Asset

TOKEN = (
    '{address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: USDC, version: "2", decimals: 6}'
)
RECIPIENT = '"0xabababababababababababababababababababab"'
GOOD = {
    "chain_id": "84532",
    "token": TOKEN,
    "recipient": RECIPIENT,
    "submit": "{facilitator: https://facilitator.example}",
}
KEY = "0x" + "11" * 32
KEY_ACCOUNT = checksum(address_of(bytes.fromhex(KEY[2:])))


def text(name="evm", root="", **keys):
    lines = "".join(f"    {key}: {value}\n" for key, value in (GOOD | keys).items() if value)
    services = "services:\n  api: {base_url: https://a.example, routes: {/x: {charge: 1}}}\n"
    return f"secret_key: ${{SECRET}}\n{root}methods:\n  {name}:\n{lines}{services}"


def test_a_method_whose_name_is_a_kind_needs_no_kind(build):
    assert build.load(text()).methods["evm"].chain_id == 84532


def test_a_method_with_a_name_of_its_own_names_its_kind(build):
    assert list(build.load(text("base", kind="evm")).methods) == ["base"]


def test_a_missing_kind_lists_what_there_is(build):
    expected = (
        "methods.base: `kind` is missing, and `base` is no kind; known here: evm, stripe, tempo"
    )

    assert expected == build.mistake(text("base"))


def test_an_unknown_kind_lists_what_there_is(build):
    expected = "methods.base.kind: found 'bitcoin', expected a kind of payment method; known"

    assert build.mistake(text("base", kind="bitcoin")).startswith(expected)
    assert set(KINDS) == {"evm", "stripe", "tempo"}


def test_the_asset_is_coded_by_chain_and_contract(build):
    code = "eip155:84532/erc20:0x036cbd53842c5426634e7929541ec2318f3dcf7e"

    assert Asset(code, 6) == build.load(text()).methods["evm"].asset


@pytest.mark.parametrize("key", ["chain_id", "token", "recipient", "submit"])
def test_what_has_no_default_is_asked_for(build, key):
    assert f"methods.evm: `{key}` is missing" == build.mistake(text(**{key: ""}))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ('"0xabc"', "0x and 40"),
        ("0x0000000000000000000000000000000000000000", "other than zero"),
        ('"0xABababababababababababababababababababab"', "EIP-55"),
        ("5", "a text"),
        ('"abababababababababababababababababababab"', "0x and 40"),
    ],
)
def test_a_recipient_that_would_lose_money_is_refused(build, address, expected):
    message = build.mistake(text(recipient=address))

    assert message.startswith("methods.evm.recipient: found ")
    assert expected in message


def test_an_address_is_kept_in_its_checksum_form_and_needs_no_quotes(build):
    method = build.load(text(recipient="0xabababababababababababababababababababab")).methods["evm"]

    assert method.recipient == "0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB"


@pytest.mark.parametrize(
    "submit",
    ["{}", f"{{facilitator: https://f.example, private_key: '{KEY}'}}", "{authorization: x}"],
)
def test_exactly_one_party_submits(build, submit):
    message = build.mistake(text(submit=submit, rpc_url="https://r.example"))

    assert "expected either `facilitator` or `private_key`" in message


def test_an_own_key_needs_a_way_to_the_chain(build):
    assert "expected `rpc_url` too" in build.mistake(text(submit=f"{{private_key: '{KEY}'}}"))


def test_an_own_key_with_a_way_to_the_chain_is_taken(build):
    method = build.load(text(submit=f"{{private_key: '{KEY}'}}", rpc_url="https://r.example"))

    assert method.methods["evm"].submit.private_key.get_secret_value() == KEY


def test_an_authorization_is_for_a_facilitator(build):
    submit = f"{{private_key: '{KEY}', authorization: x}}"

    assert "only beside `facilitator`" in build.mistake(text(submit=submit, rpc_url="https://r.io"))


def test_a_url_is_a_list_of_one_facilitator_with_the_authorization_beside_it(build):
    submit = build.load(text(submit="{facilitator: https://f.example, authorization: x}"))

    (entry,) = submit.methods["evm"].submit.facilitators
    assert entry.url == "https://f.example"
    assert entry.authorization.get_secret_value() == "x"


def test_several_facilitators_are_taken_in_order(build):
    entries = (
        "{url: https://a.example, authorization: x}",
        "{url: https://b.example, auth_hook: 'json:dumps'}",
    )
    config = build.load(text(submit=f"{{facilitator: [{', '.join(entries)}]}}"))

    first, second = config.methods["evm"].submit.facilitators
    assert (first.url, second.url) == ("https://a.example", "https://b.example")
    assert (second.authorization, second.auth_hook) == (None, "json:dumps")


@pytest.mark.parametrize(
    ("facilitator", "expected"),
    [
        ("[]", "a list that is not empty"),
        ("[https://a.example]", "a mapping"),
        ("[{authorization: x}]", "url"),
        ("[{url: 'http://a.example'}]", "an https:// URL"),
        ("[{url: https://a.example}, {url: 'http://b.example'}]", "an https:// URL"),
        ("[{url: https://a.example, auth_hook: json}]", "an import path"),
        ("[{url: https://a.example, auth_hook: 'json:nothing'}]", "it has no function nothing"),
        ("[{url: https://a.example, auth_hook: 'no_such_module:f'}]", "no module no_such_module"),
        (
            "[{url: https://a.example, authorization: x, auth_hook: 'json:dumps'}]",
            "either `authorization` or `auth_hook`",
        ),
        ("[{url: https://a.example, api_key: x}]", "api_key"),
        (f"[{', '.join(['{url: https://a.example}'] * 9)}]", "8"),
    ],
)
def test_an_entry_that_cannot_be_used_is_a_mistake(build, facilitator, expected):
    message = build.mistake(text(submit=f"{{facilitator: {facilitator}}}"))

    assert message.startswith("methods.evm.submit.facilitator")
    assert expected in message


def test_an_authorization_beside_several_facilitators_is_refused(build):
    entries = "[{url: https://a.example}, {url: https://b.example}]"
    message = build.mistake(text(submit=f"{{facilitator: {entries}, authorization: x}}"))

    assert "`authorization` in the entries of `facilitator`" in message


@pytest.mark.parametrize(
    "key",
    ["0x11", "zz" * 32, "00" * 32, "ff" * 32, "1" * 63],
)
def test_a_key_outside_the_curve_is_refused_unseen(build, key):
    message = build.mistake(text(submit=f"{{private_key: '{key}'}}", rpc_url="https://r.example"))

    assert message.startswith("methods.evm.submit.private_key: found a value (not shown)")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("chain_id", "0"),
        ("chain_id", "9007199254740992"),
        ("chain_id", "true"),
        ("confirmations", "0"),
        ("confirmations", "65"),
        ("units", "usd"),
        ("units", "['1']"),
        ("token", "{address: 1}"),
    ],
)
def test_values_out_of_bounds_are_refused(build, key, value):
    for line in build.mistakes(text(**{key: value})):
        assert line.startswith(f"methods.evm.{key}")


@pytest.mark.parametrize("decimals", ["-1", "37", "6.0"])
def test_decimals_are_bounded(build, decimals):
    token = TOKEN.replace("decimals: 6", f"decimals: {decimals}")

    assert build.mistake(text(token=token)).startswith("methods.evm.token.decimals: found")


def test_an_unquoted_version_is_asked_for_in_quotes(build):
    token = TOKEN.replace('version: "2"', "version: 2")

    assert "expected a text (in quotes" in build.mistake(text(token=token))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ftp://f.example", "https://"),
        ("//f.example", "https://"),
        ("f.example", "https://"),
        ("https://user:hidden@f.example", "without user name"),
        ("https://", "a host"),
        ("https://f.example/#x", "fragment"),
        ("https://f.example:0", "port"),
        ("https://f.example:99999", "a URL"),
        ("http://f.example", "an https:// URL"),
        ("https://caf\u00e9.example", "visible ASCII"),
        ("https://f_.example:x", "a URL"),
    ],
)
def test_a_facilitator_url_of_another_form_is_refused(build, url, expected):
    message = build.mistake(text(submit=f"{{facilitator: '{url}'}}"))

    assert message.startswith("methods.evm.submit.facilitator: found ")
    assert expected in message
    assert "hidden" not in message


@pytest.mark.parametrize("host", ["127.0.0.1:8545", "localhost", "[::1]:8545", "127.9.9.9"])
def test_plain_http_is_allowed_on_this_machine(build, host):
    build.load(text(rpc_url=f"'http://{host}'"))


def test_plain_http_to_another_machine_is_refused_without_showing_the_url(build):
    message = build.mistake(text(rpc_url="http://rpc.example/marked"))

    assert message.startswith("methods.evm.rpc_url: found a value (not shown), expected an https")


def test_plain_http_to_another_machine_can_be_allowed(build):
    build.load(text(root="allow_insecure: true\n", rpc_url="http://rpc.example/"))


def test_confirmations_need_a_way_to_count_them(build):
    assert "`confirmations` are counted through it" in build.mistake(text(confirmations="3"))


def test_a_method_without_a_view_of_the_chain_is_warned_of(build):
    (warning,) = build.load(text()).warnings

    assert "settled one at a time" in str(warning)
    assert build.load(text(rpc_url="https://rpc.example")).warnings == ()


def test_a_token_that_x402_clients_do_not_know_is_warned_of(build):
    stranger = '{address: "0x742d35Cc6634c0532925a3b844bC9e7595F8fE00", name: X, decimals: 6}'
    keys = {"x402": "true", "rpc_url": "https://rpc.example"}

    assert build.load(text(**keys)).warnings == ()
    (warning,) = build.load(text(**keys, token=stranger)).warnings
    assert "official x402 clients" in str(warning)


def test_a_name_is_small_letters(build):
    assert "small letters" in build.mistake(text("Base", kind="evm"))


def test_a_broken_method_gives_no_second_mistake_on_the_routes_that_use_it(build):
    assert build.mistake(text(chain_id="0")).startswith("methods.evm.chain_id")


def own_key(more="", chain_id="84532", root="", **keys):
    submit = f"{{private_key: '{KEY}'{more}}}"
    return text(root=root, submit=submit, rpc_url="https://r.example", chain_id=chain_id, **keys)


@pytest.mark.parametrize(
    ("chain_id", "gwei", "wei"),
    [
        ("1", '"30"', 30 * 10**9),
        ("1", '"0.000000001"', 1),
        ("1", "30", 30 * 10**9),
        ("8453", '"0.5"', 5 * 10**8),
        ("8453", "", 10**9),
        ("84532", "", 10**9),
        ("1", "", None),
    ],
)
def test_the_ceiling_of_gas_is_what_is_set_or_what_is_usual_on_the_chain(
    build, chain_id, gwei, wei
):
    more = f", max_fee_gwei: {gwei}" if gwei else ""
    assert build.load(own_key(more, chain_id)).methods["evm"].max_fee_wei == wei


@pytest.mark.parametrize("gwei", ['"0"', '"0.0000000001"', '"1e9"', "-1", "yes", "1.5", '"1,5"'])
def test_a_ceiling_that_is_none_is_refused(build, gwei):
    message = build.mistake(own_key(f", max_fee_gwei: {gwei}"))
    assert message.startswith("methods.evm.submit.max_fee_gwei: found ")


def test_a_ceiling_is_for_an_own_key(build):
    message = build.mistake(text(submit='{facilitator: https://f.example, max_fee_gwei: "1"}'))
    assert "`max_fee_gwei` only beside `private_key`" in message


def test_a_priced_route_on_an_own_key_without_a_ceiling_is_warned_of(build):
    (warning,) = build.load(own_key(chain_id="1")).warnings
    assert str(warning).endswith(
        "methods.evm: without `submit.max_fee_gwei` a call may cost more for gas than it earns"
    )


def test_a_ceiling_or_a_chain_with_a_usual_one_or_a_free_shop_is_not_warned_of(build):
    free = own_key(chain_id="1").replace("{/x: {charge: 1}}", "{/x: free}")
    for config in (own_key(', max_fee_gwei: "40"', "1"), own_key(chain_id="8453"), free):
        assert build.load(config).warnings == ()


def short(chain_id="", **keys):
    return text(**{"chain_id": chain_id, "token": "USDC", "network": "base-sepolia"} | keys)


def test_the_names_of_a_network_and_a_token_stand_for_the_long_form(build):
    method = build.load(short()).methods["evm"]
    long = build.load(text()).methods["evm"]

    assert (method.chain_id, method.token, method.units) == (84532, long.token, ("usd",))


def test_the_id_of_a_chain_serves_as_well_as_its_name(build):
    method = build.load(short(network="", chain_id="8453", token="usdc")).methods["evm"]

    assert method.token.name == "USD Coin"


def test_a_network_is_named_once(build):
    message = build.mistake(short(chain_id="84532"))

    assert message.endswith("expected `network` or `chain_id`, not both")


@pytest.mark.parametrize("network", ["bass", "[base]", "8453"])
def test_an_unknown_network_is_one_mistake_that_lists_those_that_are_known(build, network):
    message = build.mistake(short(network=network))

    assert message.startswith("methods.evm.network: found ")
    assert "`base-sepolia`" in message


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"token": "DAI"}, "found 'DAI', expected USDC or EURC, or a mapping with `address`"),
        ({"network": "ethereum", "token": "EURC"}, "expected USDC, or a mapping with `address`"),
        ({"network": "", "chain_id": "5"}, "found 'USDC', expected a mapping with `address`"),
    ],
)
def test_a_token_that_is_not_known_on_the_chain_is_refused(build, keys, expected):
    assert expected in build.mistake(short(**keys))


def test_a_wrong_chain_id_is_not_told_of_the_token_too(build):
    assert build.mistake(short(network="", chain_id="0")).startswith("methods.evm.chain_id: found")


def test_euros_are_not_sold_for_as_many_dollars(build):
    (mistake,) = build.mistakes(short(token="EURC"))
    euros = short(token="eurc", root="currency: eur\n")

    assert mistake.startswith('services.api.routes."/x"')
    assert build.load(euros).methods["evm"].units == ("eur",)
    assert build.load(short(token="EURC", units="[usd]")).methods["evm"].units == ("usd",)


def test_a_well_known_token_under_another_signing_name_is_warned_of(build):
    token = TOKEN.replace("name: USDC", "name: USD Coin")

    (warning,) = build.load(text(token=token, rpc_url="https://rpc.example")).warnings

    assert "USDC on chain 84532 is known to sign with `token.name` 'USDC'" in str(warning)


def test_a_euro_coin_in_the_long_form_that_counts_as_a_dollar_is_warned_of(build):
    token = (
        '{address: "0x808456652fdb597867f38412077A9182bf77359F", name: EURC, version: "2",'
        " decimals: 6}"
    )

    (warning,) = build.load(text(token=token, rpc_url="https://rpc.example")).warnings

    assert "one EURC is worth one eur" in str(warning)


def test_a_well_known_token_with_other_decimals_is_refused(build):
    token = TOKEN.replace("decimals: 6", "decimals: 18")

    assert "expected `token.decimals` of 6" in build.mistake(text(token=token))


def test_buyers_sign_authorizations_unless_the_seller_takes_more(build):
    more = text(rpc_url="https://r.example", credential_types="[transaction, authorization]")

    assert build.load(text()).methods["evm"].credential_types == ("authorization",)
    assert build.load(more).methods["evm"].credential_types == ("transaction", "authorization")


@pytest.mark.parametrize(
    ("types", "rpc_url", "expected"),
    [
        ("[]", "https://r.example", "a list that is not empty"),
        ("[transfer]", "https://r.example", "`authorization`"),
        ("[hash, hash]", "https://r.example", "each of `credential_types` once"),
        ("[hash]", "", "`rpc_url` too"),
        ("[authorization, transaction]", "", "`rpc_url` too"),
    ],
)
def test_types_that_cannot_be_verified_are_refused(build, types, rpc_url, expected):
    assert expected in build.mistake(text(credential_types=types, rpc_url=rpc_url))


def test_permits_are_signed_for_a_key_of_ours(build):
    message = build.mistake(text(credential_types="[permit2]", rpc_url="https://r.example"))

    assert "`submit.private_key` too" in message
    assert build.load(own_key(credential_types="[permit2]")).methods["evm"]


SPLIT = '[{recipient: "0x' + "c1" * 20 + '", percent: "2.5"}]'


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "`credential_types: [permit2]`"),
        ({"credential_types": "[permit2, authorization]"}, "`credential_types: [permit2]`"),
        ({"recipient": '"0x' + "c1" * 20 + '"'}, "each recipient once"),
        (
            {"splits": SPLIT.replace("2.5", "99.99").replace("]", ", " + SPLIT[1:])},
            "less than 100",
        ),
    ],
)
def test_splits_that_cannot_be_paid_are_refused(build, keys, expected):
    types = {"credential_types": "[permit2]"} if keys else {}

    assert expected in build.mistake(own_key(**({"splits": SPLIT} | types | keys)))


def test_a_method_with_splits_gives_no_refunds(build):
    keys = {"credential_types": "[permit2]", "recipient": f'"{KEY_ACCOUNT}"'}

    whole = build.load(own_key(**keys)).methods["evm"]
    shared = build.load(own_key(**keys, splits=SPLIT)).methods["evm"]

    assert (whole.can_refund(None), shared.can_refund(None)) == (True, False)


def test_x402_buyers_sign_authorizations(build):
    keys = {"credential_types": "[hash]", "rpc_url": "https://r.example", "x402": "true"}

    assert "what x402 buyers sign" in build.mistake(text(**keys))


@pytest.mark.parametrize(
    "keys",
    [
        {"submit": "{facilitator: https://f.example}"},
        {"x402": "true", "submit": "{private_key: 0x" + "11" * 32 + "}"},
    ],
    ids=["no x402", "a gas key"],
)
def test_permits_of_x402_need_a_facilitator(build, keys):
    keys = {"x402_permit2": "true", "rpc_url": "https://r.example", **keys}

    assert "for `x402_permit2`" in build.mistake(text(**keys))


def test_hashes_are_warned_of(build):
    (warning,) = build.load(text(credential_types="[hash]", rpc_url="https://r.example")).warnings

    assert "whoever sees a buyer's transfer can claim it first" in str(warning)


def test_contract_wallets_are_asked_through_a_node(build):
    assert "`rpc_url` too" in build.mistake(text(contract_wallets="true"))
    method = build.load(text(contract_wallets="true", rpc_url="https://r.example")).methods["evm"]
    assert method.contract_wallets
