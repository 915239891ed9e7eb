"""Two methods on one route of which a payment could be either: refused before anybody pays."""

import pytest

from mpp_gateway.config import load_text
from mpp_gateway.errors import ConfigError

OTHER = "0xcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
PAYEE = 'recipient: "0xabababababababababababababababababababab"'
TOKEN = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
SECOND = "0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42"


def evm(chain_id=8453, token=TOKEN, payee=PAYEE, more=""):
    return (
        f'{{kind: evm, chain_id: {chain_id}, token: {{address: "{token}", name: A, decimals: 6}},'
        f" {payee}, submit: {{facilitator: https://f.example}}{more}}}"
    )


def stripe(network="profile_1", currency="usd", key="sk_test_1", more=""):
    return (
        f"{{kind: stripe, secret_key: {key}, network_id: {network}, currency: {currency},"
        f' rates: {{{"eur" if currency == "usd" else "usd"}: "1"}}{more}}}'
    )


def tempo(chain_id=4217, token=TOKEN, payee=PAYEE):
    return (
        f'{{kind: tempo, chain_id: {chain_id}, rpc_url: https://r.example, currency: "{token}",'
        f" {payee}}}"
    )


def text(one: str, other: str, route: str = '{charge: "1.00"}') -> str:
    """The route stands in line 9."""
    return f"""\
secret_key: "{"s" * 40}"
methods:
  one: {one}
  other: {other}
services:
  api:
    base_url: https://api.example.com
    routes:
      "GET /x": {route}
      "GET /one": {{charge: "1.00", methods: [one]}}
      "GET /other": {{charge: "1.00", methods: [other]}}
"""


ALIKE = {
    "stripe": (stripe(), stripe(key="rk_live_2", more=", external_id: o-1, metadata: {a: b}")),
    "tempo": (tempo(), tempo(token=TOKEN.lower(), payee=f'recipient: "{OTHER}"')),
    "evm": (evm(), evm(token=TOKEN.lower(), payee=f'recipient: "{OTHER}"')),
}
APART = {
    "two profiles": (stripe(), stripe(network="profile_2")),
    "two currencies": (stripe(), stripe(currency="eur")),
    "two chains": (tempo(), tempo(chain_id=42431)),
    "two tokens": (tempo(), tempo(token=SECOND)),
    "two evm chains": (evm(), evm(chain_id=84532)),
    "two evm tokens": (evm(), evm(token=SECOND)),
    "two kinds": (evm(), tempo(chain_id=8453)),
}
ROUTES = {
    "charge": ('{charge: "1.00"}', "name one of them in its `methods`"),
    "methods": ('{charge: "1.00", methods: [one, other]}', "name one of them in its `methods`"),
    "offers": (
        '{offers: [{method: one, amount: "1.00"}, {method: other, amount: "2.00"}]}',
        "offer one of them",
    ),
}


@pytest.mark.parametrize("key", ROUTES)
@pytest.mark.parametrize("kind", ALIKE)
def test_two_methods_that_nobody_could_tell_apart_are_refused_on_one_route(kind, key):
    """A payment made for either was refused as ambiguous, or by whichever looked at it first."""
    route, cure = ROUTES[key]

    with pytest.raises(ConfigError) as refused:
        load_text(text(*ALIKE[kind], route), "shop.yaml", {})

    (mistake,) = str(refused.value).splitlines()
    where = f'shop.yaml:9: services.api.routes."GET /x".{key}: '
    assert mistake.startswith(f"{where}`one` and `other` cannot be told apart on one route: both")
    assert f" are {kind}, " in mistake
    assert mistake.endswith(cure)


@pytest.mark.parametrize("kind", ALIKE)
def test_they_may_each_have_a_route_of_their_own(kind):
    alone = text(*ALIKE[kind], '{charge: "1.00", methods: [other]}')

    assert len(load_text(alone, "shop.yaml", {}).methods) == 2


@pytest.mark.parametrize("pair", APART.values(), ids=APART)
def test_methods_that_a_payment_tells_apart_share_a_route(pair):
    (first, *_) = load_text(text(*pair), "shop.yaml", {}).services["api"].routes

    assert [price.method_name for price in first.prices] == ["one", "other"]


BY_HASH = ", rpc_url: https://r.example, credential_types: [authorization, hash]"


@pytest.mark.parametrize("token", [TOKEN, TOKEN.lower()])
def test_a_transfer_on_tempo_is_no_plain_transfer_besides(token):
    """Shown by its memo to one method and by its hash to the other, one price bought two calls."""
    apart = '{charge: "1.00", methods: [other]}'

    with pytest.raises(ConfigError) as refused:
        load_text(text(evm(more=BY_HASH), tempo(8453, token), apart), "shop.yaml", {})

    (mistake,) = str(refused.value).splitlines()
    assert mistake.startswith("shop.yaml:3: methods.one.credential_types: ")
    assert "types without `hash`: `other` is paid with the same token" in mistake


@pytest.mark.parametrize(
    "other", [tempo(8453, SECOND), tempo(4217), evm(more=BY_HASH, token=SECOND)]
)
def test_plain_transfers_of_another_token_are_taken_beside_tempo(other):
    assert len(load_text(text(evm(more=BY_HASH), other), "shop.yaml", {}).methods) == 2
