"""Payment methods: stablecoins on Tempo."""

import subprocess
import sys

import pytest

from mpp_gateway.cli.catalogue import rows
from mpp_gateway.config.tempo import SETTLES_WITHIN_S
from mpp_gateway.gateway.explanation import explain
from mpp_gateway.protocol.money import Asset
from mpp_gateway.rails import registry
from mpp_gateway.rails.statement import NoStatement
from mpp_gateway.rails.tempo import seller

GOOD = {
    "chain_id": "42431",
    "rpc_url": "https://node.example/key",
    "currency": '"0x20c0000000000000000000000000000000000000"',
    "recipient": '"0xabababababababababababababababababababab"',
}
PARTNER = "0x" + "cd" * 20


def sponsor(**more):
    members = "".join(f', {name}: "{value}"' for name, value in more.items())
    return f'{{private_key: "0x{"11" * 32}"{members}}}'


SPONSOR = sponsor()


def text(charge='"0.01"', **keys):
    lines = "".join(f"    {key}: {value}\n" for key, value in (GOOD | keys).items() if value)
    routes = f"{{/x: {{charge: {charge}}}}}"
    services = f"services:\n  api: {{base_url: https://a.example, routes: {routes}}}\n"
    return f"secret_key: ${{SECRET}}\nmethods:\n  tempo:\n{lines}{services}"


def test_the_token_is_an_asset_of_six_decimals(build):
    method = build.load(text()).methods["tempo"]

    code = "eip155:42431/erc20:0x20c0000000000000000000000000000000000000"
    assert method.asset == Asset(code, 6)
    assert method.modes == ("pull", "push")


def test_with_a_sponsor_buyers_sign_and_send_nothing_themselves(build):
    method = build.load(text(sponsor=SPONSOR)).methods["tempo"]

    assert method.modes == ("pull",)
    assert (method.sponsor.max_fee, method.sponsor.max_in_flight) == ("0.05", "1.00")
    assert "11" * 32 not in repr(method)


@pytest.mark.parametrize("key", GOOD)
def test_each_of_the_four_is_needed(build, key: str):
    assert build.mistake(text(**{key: ""})) == f"methods.tempo: `{key}` is missing"


@pytest.mark.parametrize(
    ("keys", "cure"),
    [
        ({"modes": "[]"}, "modes"),
        ({"modes": "[pull, pull]"}, "each of `modes` once"),
        ({"modes": "[fax]"}, "modes"),
        ({"fee_payer": "true"}, "fee_payer"),
        ({"sponsor": "{}"}, "private_key"),
        ({"sponsor": SPONSOR, "modes": "[pull, push]"}, "`modes: [pull]` beside `sponsor`"),
        ({"sponsor": SPONSOR, "modes": "[push]"}, "`modes: [pull]` beside `sponsor`"),
        ({"sponsor": sponsor(max_fee="0")}, "`max_fee` above 0"),
        ({"sponsor": sponsor(max_fee="2")}, "no less than that"),
        ({"sponsor": sponsor(max_fee="0.0000001")}, "6 decimals"),
        ({"splits": f'[{{recipient: "{PARTNER}", percent: "100"}}]'}, "below 100"),
        ({"splits": f'[{{recipient: "{PARTNER}", percent: "0"}}]'}, "above 0"),
        ({"splits": f'[{{recipient: "{PARTNER}", percent: "0.001"}}]'}, "two decimals"),
        ({"splits": f"[{{recipient: {GOOD['recipient']}, percent: 1}}]"}, "each recipient once"),
        (
            {
                "splits": f'[{{recipient: "{PARTNER}", percent: 60}},'
                f' {{recipient: "0x{"ef" * 20}", percent: 40}}]'
            },
            "less than 100 percent together",
        ),
    ],
)
def test_a_mistake_names_its_cure(build, keys: dict[str, str], cure: str):
    assert cure in build.mistake(text(**keys))


def test_a_share_is_counted_in_hundredths_of_a_percent(build):
    shares = f'[{{recipient: "{PARTNER}", percent: "2.5"}}]'

    (split,) = build.load(text(splits=shares)).methods["tempo"].splits
    assert split.of_ten_thousand == 250


def test_the_access_key_in_the_address_of_the_node_is_in_no_message(build):
    config = build.load(text())

    assert "node.example/key" not in repr(config)


def test_a_price_of_zero_is_one_here(build):
    (route,) = build.load(text(charge='"0"')).services["api"].routes

    assert route.prices[0].amount_minor == 0
    assert not route.free


def test_a_refund_cannot_be_promised(build):
    routes = '{/x: {charge: "0.01", settle: before, on_failure: refund}}'
    whole = text().replace('{/x: {charge: "0.01"}}', routes)

    assert "leave it at `credit`" in build.mistake(whole)


def test_what_moves_sooner_than_the_route_says_is_told(build):
    config = build.load(text())
    reasons = explain(config, "GET", "/api/x").reasons

    assert "By tempo, otherwise: a `hash`" in reasons[-1]
    assert "a transaction that ends before the upstream's time is up" in reasons[-1]
    assert rows(config)[0].settle == "may be before"
    nothing = build.load(text('"0"'))
    assert "settles when" in explain(nothing, "GET", "/api/x").reasons[-1]
    assert rows(nothing)[0].settle == "on_success"


def test_only_on_a_quick_route_does_a_signed_transaction_wait_for_the_upstream(build):
    quick = "timeouts: {connect_s: 2, first_byte_s: 8}\n" + text(modes="[pull]")

    assert rows(build.load(quick))[0].settle == "on_success"
    assert rows(build.load(text(modes="[pull]")))[0].settle == "may be before"
    assert rows(build.load(text(modes="[push]")))[0].settle == "before"
    assert SETTLES_WITHIN_S == seller.SETTLES_WITHIN_S


def test_with_shares_money_is_said_to_move_first(build):
    shared = f'[{{recipient: "{PARTNER}", percent: "2.5"}}]'
    config = build.load(text(splits=shared))

    assert rows(config)[0].settle == "before"
    first, last = explain(config, "GET", "/api/x").reasons[-2:]
    assert first == "The payment settles before the upstream is called."
    assert last == "By tempo: it settles before, and is a credit if the upstream fails."


def test_a_kind_that_cannot_read_its_network_says_so(build, monkeypatch):
    method = build.load(text()).methods["tempo"]
    registry.statement("tempo", method, frozenset())
    monkeypatch.setitem(registry.KINDS, "tempo", "tests.support.toy_rail")
    with pytest.raises(NoStatement, match="tempo cannot be looked up"):
        registry.statement("tempo", method, frozenset())


def test_a_configuration_with_tempo_alone_imports_no_other_rail():
    program = (
        "import sys; from mpp_gateway.rails import registry; from importlib import import_module;"
        "import_module(registry.KINDS['tempo']);"
        "heavy = {'web3', 'eth_account', 'stripe', 'rlp', 'mpp_gateway.rails.evm.seller'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_configuration_without_tempo_never_imports_it():
    program = (
        "import sys; import mpp_gateway.gateway.serving; from importlib import import_module;"
        "from mpp_gateway.rails import registry; import_module(registry.KINDS['evm']);"
        "print([name for name in sys.modules if name.startswith('mpp_gateway.rails.tempo')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr
