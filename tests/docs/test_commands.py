"""Every command of a page is run by some test, and the table here says by which."""

import re
import shlex

import pytest

from mpp_gateway.cli.main import parser
from mpp_gateway.cli.reference import PAGES as GENERATED
from mpp_gateway.cli.reference import verbs
from mpp_gateway.config.zero import ZeroOptions, zero_config
from tests.docs.pages import PAGES, ROOT, commands
from tests.support.evm import GAS_KEY, PAYEE

CLI = "tests/process/test_cli.py::"
SCRIPTS = "tests/process/test_scripts.py::"
READ = SCRIPTS + "test_a_script_is_read_by_its_interpreter_without_a_mistake"
FRESH = "tests/docs/test_references.py::test_a_generated_page_is_fresh"
ZERO = "tests/process/test_zero_config.py::test_one_host_is_sold_as_it_stands"
WEB = (
    "tests/process/test_inspection.py::"
    "test_mitmweb_shows_price_state_challenge_credential_and_receipt"
)
DEMO = "tests/process/test_demo.py::"
SELL = DEMO + "test_the_printed_commands_sell_and_buy_on_the_chain_of_the_demo"
REAL = "tests/docs/test_commands.py::test_the_options_for_real_money_make_a_configuration"
VALIDATE = (
    "tests/peers/test_validate.py::"
    "test_every_check_of_mppx_validate_passes_and_every_paid_route_is_paid"
)
CHAOS = (
    "tests/inproc/test_engine_chaos.py"
    "::test_no_sequence_of_frames_crashes_a_layer_or_leaves_anything_behind"
)
BOOKS = "tests/docs/test_bookkeeping.py::test_every_command_of_the_page_runs_as_it_stands"
BENCH = "tests/peers/test_bench.py::test_every_cell_is_measured_in_every_round"
LEDGER_BENCH = "tests/process/test_bench_ledger.py::test_every_cell_is_measured"
FOOTPRINT = "tests/process/test_footprint.py::test_every_configuration_is_measured"

RUN_BY = {
    r"mpp-gateway serve --config gateway.yaml": CLI
    + "test_serve_says_what_it_sells_and_answers_402",
    r"mpp-gateway check --config gateway.yaml": CLI + "test_check_prints_a_table_on_a_terminal",
    r"mpp-gateway explain GET /weather/v1/forecast --config gateway.yaml": CLI
    + "test_explain_says_what_would_happen",
    r"mpp-gateway ledger (\w+)( \w+| --[a-z]+ [a-z\d.]+| --journal)* --config gateway.yaml": BOOKS,
    r"mpp-gateway (serve|check|explain|pay|demo|ledger( \w+)?)": CLI
    + "test_the_help_of_a_verb_teaches_it",
    r"mpp-gateway pay URL": CLI + "test_a_paid_call_prints_the_answer_and_the_receipt",
    r"mpp-gateway pay https://gateway.example.com/crm/v1/contacts"
    r' --header "Authorization: Bearer TOKEN" --max 0.01': (
        "tests/process/test_pay_attacks.py::test_a_payment_goes_beside_the_buyers_own_authorization"
    ),
    r"mpp-gateway pay https://gateway.example.com/openai/v1/models --method tempo --max 0.05": (
        "tests/process/test_pay_tempo.py::test_a_call_costs_its_price_and_the_fee_and_has_a_receipt"
    ),
    r"mpp-gateway pay https://gateway.example.com/anthropic/v1/messages --method stripe --max 0.50"
    r" --data @body": "tests/process/test_pay_stripe.py::test_a_post_is_paid_with_its_body",
    r"PYTHONPATH=docs/how-to/examples mpp-gateway serve --config gateway.yaml": (
        "tests/docs/test_hooks_example.py::test_the_example_changes_request_and_answer"
    ),
    r"git clone <this repository> mpp-gateway && cd mpp-gateway": SCRIPTS
    + "test_the_demo_pays_once_and_its_balances_add_up",
    r"source \.venv/bin/activate": SCRIPTS
    + "test_the_commands_are_on_the_path_once_the_environment_is_activated",
    r"\./scripts/demo( --once)?": SCRIPTS + "test_the_demo_pays_once_and_its_balances_add_up",
    r"export MPP_SECRET_KEY=\.\.\. MPP_GAS_KEY=0x\.\.\. API_KEY=\.\.\.": SELL,
    r"export MPP_PRIVATE_KEY=0x\.\.\.": SELL,
    r"\.venv/bin/mpp-gateway serve --config (/tmp/mpp-gateway-demo-\.\.\./)?gateway.yaml": SELL,
    r"\.venv/bin/mpp-gateway check --config gateway.yaml": CLI
    + "test_check_prints_a_table_on_a_terminal",
    r"\.venv/bin/mpp-gateway pay http://127.0.0.1:4403/mine/now/Oslo"
    r" --rpc-url http://\S+ --max 0\.10": SELL,
    r"mitmdump -s addons/gateway.py --mode reverse:https://api.example.com"
    r" --set gateway_charge=0.01 --set gateway_recipient=0x\w+": ZERO,
    r"export MPP_GAS_KEY=0x\.\.\.": REAL,
    r"mitmdump -s addons/gateway.py --mode reverse:https://api.example.com --set"
    r" gateway_network=base --set gateway_charge=0.01 --set gateway_recipient=0x\w+": REAL,
    r"mitmdump -s addons/gateway.py": ZERO,
    r"mitmdump --mode reverse:": BENCH,
    r"mitmweb -s addons/gateway.py --mode reverse:http://127.0.0.1:1"
    r" --set gateway_config=gateway.yaml": WEB,
    # Read and not run: they run these very tests, or download what is installed already.
    r"\./scripts/(test( tests/unit -k replay)?|check|lock)": READ,
    r"\./scripts/bench( .*)?": BENCH,
    r"\./scripts/bench-ledger( .*)?": LEDGER_BENCH,
    r"\./scripts/footprint( .*)?": FOOTPRINT,
    r"\./scripts/chaos( .*)?": CHAOS,
    r"\.venv/bin/python scripts/vectors": (
        "tests/vectors/test_own_vectors.py::"
        "test_the_committed_vectors_are_what_the_code_writes_today"
    ),
    r"\.venv/bin/python -m mpp_gateway\.config\.reference": (
        "tests/unit/config/test_reference.py::test_the_page_is_fresh"
    ),
    r"python -m mpp_gateway\.config\.reference > docs/reference/config\.md": (
        "tests/unit/config/test_reference.py::test_the_page_is_fresh"
    ),
    r"python -m mpp_gateway\.cli\.reference (\w+)( > docs/reference/\w+\.md)?": FRESH,
    r"mppx (discover )?validate https://api\.example\.com(/openapi\.json)?": VALIDATE,
}
"""The pattern of a whole command, and the test that runs it."""

FOREIGN = {
    "cp /tmp/mpp-gateway-demo-.../gateway.yaml gateway.yaml": "copies a file",
    "./scripts/pay-with-legacy-x402": "installs 590 MB; it pays as tests/peers/test_x402.py does",
    "openssl rand -base64 32": "any 32 random bytes will do",
    ".venv/bin/python -m pip install 'psycopg[binary]>=3.2,<4'": "installs a package of the lock",
    "py-spy record --pid PID --duration 20 --output profile.svg": "not a package of ours",
}


def known(command: str) -> str | None:
    return next((t for pattern, t in RUN_BY.items() if re.fullmatch(pattern, command)), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_run_by_a_test(page):
    strange = [c for c in sorted(commands(page)) if known(c) is None and c not in FOREIGN]

    assert not strange, "run it in a test, and name the test in RUN_BY"


def test_the_pages_are_read_for_commands_at_all():
    found = set().union(*(commands(page) for page in PAGES))

    assert "./scripts/demo" in found
    assert "mpp-gateway serve --config gateway.yaml" in found
    assert any(
        command.startswith("mitmdump ") and "gateway_recipient" in command for command in found
    )


@pytest.mark.parametrize("test", sorted(set(RUN_BY.values())))
def test_a_test_that_is_named_is_there(test):
    path, _, name = test.partition("::")

    assert (ROOT / path).is_file()
    assert f"def {name}" in (ROOT / path).read_text()


@pytest.mark.parametrize("verb", ["", *verbs(parser())])
def test_the_examples_of_the_help_are_commands(verb):
    top = parser()
    text = (verbs(top)[verb] if verb else top).format_help()
    examples = re.findall(r"^  (mpp-gateway .+?)(?:   .*)?$", text, re.MULTILINE)

    assert examples
    for example in examples:
        options = top.parse_args(shlex.split(example)[1:])
        below = getattr(options, "question", None)
        assert verb in ("", options.verb, f"{options.verb} {below}")


def test_the_options_for_real_money_make_a_configuration(tmp_path, monkeypatch):
    options = ZeroOptions(
        upstream="https://api.example.com",
        charge="0.01",
        recipient=PAYEE,
        network="base",
        store=str(tmp_path / "gateway.db"),
    )

    config = zero_config(options, {"MPP_GAS_KEY": f"0x{GAS_KEY.hex()}"})

    (method,) = config.methods.values()
    assert (method.chain_id, method.submit.facilitator) == (8453, None)
    assert method.submit.private_key is not None


def test_the_pages_that_are_generated_are_these():
    assert set(GENERATED) == {"problems", "cli", "options", "states"}
