"""A library is loaded where its rail is configured, and nowhere else."""

import json
import subprocess
import sys

import pytest

from tests.support.process import ROOT

STRIPE = "  stripe: {secret_key: sk_test_1, network_id: profile_1}\n"
EVM = """\
  evm:
    chain_id: 84532
    token: {address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e", name: USDC, decimals: 6}
    recipient: "0xabababababababababababababababababababab"
    submit: {facilitator: "http://127.0.0.1:9"}
"""
OWN_KEY = EVM.replace(
    '{facilitator: "http://127.0.0.1:9"}', "{private_key: '0x" + "11" * 32 + "'}"
).replace("    recipient", "    rpc_url: http://127.0.0.1:9\n    recipient")
PROGRAM = """
import asyncio, json, sys
from mpp_gateway.config import load_text
from mpp_gateway.gateway.reporting import Reporter
from mpp_gateway.ledger.database import Database
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.rails import registry
from mpp_gateway.rails.payment_scheme import PaymentScheme
import mpp_gateway.addons.build, mpp_gateway.gateway.serving
config = load_text(sys.argv[1], "c.yaml", {})
scheme = PaymentScheme(ChallengeKeys.from_secrets(["s" * 32]))
for name, method in config.methods.items():
    registry.build(name, method, scheme=scheme, database=None, settle_s=30)
print(json.dumps([name for name in ("stripe", "eth_account") if name in sys.modules]))
"""


@pytest.mark.parametrize(
    ("methods", "loaded"), [(STRIPE, ["stripe"]), (EVM, []), (OWN_KEY, ["eth_account"])]
)
def test_a_library_is_imported_only_for_its_own_rail(methods, loaded):
    text = (
        f"secret_key: {'k' * 32}\nmethods:\n{methods}services:\n"
        '  api: {base_url: https://a.example, routes: {"GET /x": {charge: 1}}}\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, text],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == loaded
