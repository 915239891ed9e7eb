"""What the log says of a gateway without a file."""

import pytest

from mpp_gateway.addons.host import _who_settles
from mpp_gateway.config.methods import EvmMethod

GIVEN = {
    "network": "base-sepolia",
    "token": "USDC",
    "recipient": "0x" + "ab" * 20,
    "rpc_url": "https://node.example",
}


@pytest.mark.parametrize(
    ("submit", "said"),
    [
        ({"facilitator": "https://f.example"}, "https://f.example"),
        (
            {"facilitator": "https://f.example", "authorization": "Bearer marked"},
            "https://f.example",
        ),
        (
            {"facilitator": ({"url": "https://f.example"}, {"url": "https://g.example"})},
            "https://f.example, https://g.example",
        ),
        ({"private_key": "0x" + "11" * 32}, "none, own gas key"),
    ],
)
def test_facilitators_are_named_by_their_addresses_alone(submit, said):
    method = EvmMethod.model_validate(GIVEN | {"submit": submit})

    assert _who_settles(method) == said
