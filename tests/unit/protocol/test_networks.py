"""The table of networks: what it says must be what contracts and x402 say."""

import json

import pytest

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.protocol.networks import BY_CHAIN, NETWORKS, known_token
from mpp_gateway.protocol.x402 import V1_CHAINS
from tests.support.components import PEERS, need

TOKENS = [(network, token) for network in NETWORKS.values() for token in network.tokens]

# As the contracts answer: etherscan.io and polygonscan.com, "Read as proxy"; mppx 0.11 on Base.
SEPARATORS = {
    "ethereum": "06c37168a7db5138defc7866392bb87a741f9b3d104deb5094588ce041cae335",
    "polygon": "caa2ce1a5703ccbe253a34eb3166df60a705c561b44b192061e28f2a985be2ca",
    "base": "02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f",
}


@pytest.mark.parametrize(("network", "token"), TOKENS)
def test_an_address_is_whole_and_in_its_checksum_form(network, token):
    assert checksum(parse_address(token.address)) == token.address
    assert known_token(network.chain_id, parse_address(token.address)) is token


@pytest.mark.parametrize("name", SEPARATORS)
def test_a_token_signs_under_the_domain_that_its_contract_verifies(name):
    network = NETWORKS[name]
    usdc = network.token("USDC")

    domain = Eip712Domain(usdc.name, usdc.version, network.chain_id, parse_address(usdc.address))

    assert domain.separator.hex() == SEPARATORS[name]


def test_no_two_networks_share_a_name_or_an_id():
    assert len(BY_CHAIN) == len(NETWORKS) == len({n.title for n in NETWORKS.values()})
    assert [name for name, network in NETWORKS.items() if network.name != name] == []


def test_a_network_goes_by_one_name_here_and_in_version_1_of_x402():
    shared = {name: n.chain_id for name, n in NETWORKS.items() if n.chain_id in V1_CHAINS.values()}

    assert {name: V1_CHAINS[name] for name in shared} == shared
    assert "base" in shared


def test_a_symbol_is_known_in_any_case_and_a_stranger_is_not():
    base = NETWORKS["base"]

    assert base.token("usdc") is base.token("USDC")
    assert base.token("EURC").unit == "eur"
    assert base.token("DAI") is None
    assert known_token(1, parse_address(base.token("USDC").address)) is None


def test_every_token_is_in_the_table_of_a_buyer_that_viem_makes():
    """An own copy of the addresses that `viem/tokens` has, from where the package is there."""
    need("mppx")  # it comes with viem
    modules = PEERS / "node_modules" / "viem"
    version = json.loads((modules / "package.json").read_text())["version"]
    for network, token in TOKENS:
        known = (modules / "tokens" / "definitions" / f"{token.symbol.lower()}.ts").read_text()
        assert f"{network.chain_id}: '{token.address}'" in known, (version, network.name)
