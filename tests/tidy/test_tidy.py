"""The style guide as a test: ranks, sizes, floats near money, broad excepts, names."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

from tests.conftest import LONGEST_FIRST, TESTS
from tests.tidy.checks import PURE_MODULES, RANKS, impurities, is_broad, wrong_ranks
from tests.tidy.source import PACKAGE, ROOT, imports, sources

MONEY_PACKAGES = {"protocol", "pricing", "ledger", "rails", "sessions"}
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

# Who may catch everything, and why. Nobody else.
BROAD_EXCEPTS = {
    "mpp_gateway/ledger/database.py": (3, "hands the exception to whoever asked"),
    "mpp_gateway/cli/buyer.py": (1, "an escape would hide the credential of what was paid"),
    "mpp_gateway/gateway/reporting.py": (1, "a sink must not decide about money"),
    "mpp_gateway/rails/evm/facilitator_client.py": (
        1,
        "an operator's hook may raise anything",
    ),
    "mpp_gateway/engine/gate.py": (1, "an escape would let the request through unpaid"),
    "mpp_gateway/engine/modules.py": (1, "an escape would leave client and money hanging"),
    "mpp_gateway/addons/settlement.py": (5, "an escape would leave money without an owner"),
    "mpp_gateway/addons/runtime.py": (1, "a gateway that cannot open refuses and says why"),
}


def test_a_module_imports_only_from_lower_ranks():
    wrong = [found for source in sources() for found in wrong_ranks(source)]
    assert not wrong, "\n".join(wrong)


def test_every_package_has_a_rank():
    known = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert known <= set(RANKS), known - set(RANKS)


def test_only_the_upper_ranks_import_mitmproxy():
    wrong = [
        f"{source.name}:{line} imports {name}"
        for source in sources()
        for line, name in imports(source)
        if name.split(".")[0] == "mitmproxy" and RANKS[source.package] < 7
    ]
    assert not wrong, "\n".join(wrong)


def test_values_and_rules_have_no_clock_no_randomness_and_no_io():
    wrong = [found for source in sources() for found in impurities(source)]
    assert not wrong, "\n".join(wrong)


def test_no_module_is_allowed_to_values_and_rules_that_they_do_not_use():
    for package, allowed in PURE_MODULES.items():
        used = [f"{n}." for s in sources() if s.package == package for _, n in imports(s)]
        idle = [name for name in allowed if not any(u.startswith(f"{name}.") for u in used)]
        assert not idle, package


def test_heavy_libraries_are_imported_by_their_rail_alone():
    wrong = [
        f"{source.name}:{line} imports {name}"
        for source in sources()
        for line, name in imports(source)
        if name.split(".")[0] in {"web3", "eth_account", "stripe"}
        and not source.name.startswith(("mpp_gateway/rails/", "mpp_gateway/demo/"))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_grows_past_500_lines():
    long = {s.name: s.text.count("\n") for s in sources() if s.text.count("\n") > MODULE_LINES_MAX}
    assert not long


def test_no_function_grows_past_one_screen():
    long = [
        f"{source.name}:{node.lineno} {node.name}"
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_no_float_comes_near_money():
    wrong = []
    for source in sources():
        if source.package not in MONEY_PACKAGES:
            continue
        for node in ast.walk(source.tree):
            is_float = (isinstance(node, ast.Constant) and isinstance(node.value, float)) or (
                isinstance(node, ast.Name) and node.id == "float"
            )
            is_division = isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(
                node.op, ast.Div
            )
            if is_float or (is_division and not _is_allowed_division(source, node)):
                wrong.append(f"{source.name}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def _is_allowed_division(source, node) -> bool:
    """Milliseconds for the event loop's clock: `wait_ms / 1000` and nothing else."""
    text = ast.unparse(node)
    return (
        source.package == "rails" and re.fullmatch(r"[\w.()]*_ms(\(\))? / 1000", text) is not None
    )


def test_only_the_allow_list_catches_everything():
    found = [
        source.name for source in sources() for node in ast.walk(source.tree) if is_broad(node)
    ]
    assert {name: found.count(name) for name in found} == {
        name: count for name, (count, _) in BROAD_EXCEPTS.items()
    }


def test_nothing_in_the_package_sets_a_trap_for_itself():
    """A hook at the fail points can do anything in the middle of a payment: only tests have one."""
    sets = re.compile(r"failpoints\.hook\b|\bhook\b[^=\n]*=[^=]|setattr\(.*failpoints")
    found = [
        f"{source.name}: {line.strip()}"
        for source in sources()
        if "failpoints" in source.text or source.path.stem == "failpoints"
        for line in source.text.split("\n")
        if sets.search(line)
    ]
    assert found == ["mpp_gateway/failpoints.py: hook: Callable[[FailPoint], None] | None = None"]


def test_no_drawer_names():
    drawers = {"utils", "util", "helpers", "common", "manager", "misc"}
    assert not [s.name for s in sources() if s.path.stem in drawers]


def test_no_script_shadows_a_module():
    """mitmproxy leaves the scripts' folder on sys.path: an `http.py` hides the real one."""
    taken = set(sys.stdlib_module_names) | set(packages_distributions())
    scripts = {path.stem for path in (ROOT / "addons").glob("*.py")}
    assert scripts
    assert not scripts & taken


def test_nothing_is_left_unfinished_and_no_machine_is_named():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    words = re.compile(
        "|".join(
            [
                "TO" + "DO",
                "FIX" + "ME",
                r"\bX" + "XX" + r"\b",
                "NotImplement" + "edError",
                "/wo" + "rk/",
                "/ro" + "ot/",
            ]
        )
    )
    found = []
    for name in filter(None, files):
        path = ROOT / name
        if path.suffix in {".lock", ".json", ".png"} or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(errors="replace").split("\n"), 1):
            if words.search(line):
                found.append(f"{name}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


def test_the_files_that_are_begun_first_are_there():
    assert all((TESTS / name).is_file() for name in LONGEST_FIRST)


def test_every_public_thing_says_what_it_promises():
    silent = [
        f"{source.name}:{node.lineno} {node.name}"
        for source in sources()
        for node in source.tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not silent, "\n".join(silent)
