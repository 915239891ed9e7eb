"""A mistake in the options that stand for a file is told by the option's name."""

import pytest

from mpp_gateway.addons.host import GATEWAY_OPTIONS
from mpp_gateway.config.zero import (
    GAS_KEY_VARIABLE,
    ZeroConfigError,
    ZeroOptions,
    refuse_unread,
    zero_config,
)
from tests.support.evm import PAYEE


def mistakes(folder, environ=None, **changed: str) -> list[str]:
    given = {
        "upstream": "https://api.example.com",
        "charge": "0.01",
        "recipient": PAYEE,
        "store": str(folder / "gateway.db"),
    }
    with pytest.raises(ZeroConfigError) as refused:
        zero_config(ZeroOptions(**given | changed), environ or {})
    return str(refused.value).split("\n")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"charge": "0.0a"}, "gateway_charge: found '0.0a', expected a decimal string"),
        ({"charge": "0.0000001"}, "gateway_charge: found '0.0000001', expected at most 6 decimals"),
        ({"recipient": "0x12"}, "gateway_recipient: found '0x12', expected an address"),
        ({"rpc_url": "marked"}, "gateway_rpc_url: found a value (not shown), expected a URL"),
        ({"facilitator": "x"}, "gateway_facilitator: found 'x', expected a URL"),
        ({"public_url": "x"}, "gateway_public_url: found 'x', expected a URL"),
        ({"upstream": "https://:1"}, "mode: found 'https://:1', expected a URL"),
        ({"store": ""}, "gateway_store: the path of a file"),
        ({"store": ":memory:"}, "gateway_store: the path of a file"),
    ],
)
def test_a_mistake_is_told_by_the_name_of_its_option(tmp_path, changed, said):
    (line,) = mistakes(tmp_path, **changed)

    assert line.startswith(said)


def test_all_mistakes_are_told_at_once(tmp_path):
    lines = mistakes(tmp_path, charge="x", recipient="y")

    assert {line.partition(":")[0] for line in lines} == {"gateway_charge", "gateway_recipient"}


def test_what_is_no_option_is_told_by_where_it_came_from(tmp_path):
    (line,) = mistakes(tmp_path, {GAS_KEY_VARIABLE: "marked"})
    assert line.startswith("the environment variable MPP_GAS_KEY: found a value (not shown)")

    (tmp_path / "gateway.secret").write_text("marked\n")
    (line,) = mistakes(tmp_path)
    assert line.startswith("gateway.secret, beside gateway_store: found a value (not shown)")


@pytest.mark.parametrize("option", [n for n in GATEWAY_OPTIONS if n != "gateway_config"])
def test_no_other_option_stands_beside_a_file(option):
    with pytest.raises(ZeroConfigError, match=f"^{option}: not read beside gateway_config"):
        refuse_unread(["gateway_config", option], [], GATEWAY_OPTIONS)


def test_a_file_alone_and_options_without_one_are_taken():
    refuse_unread(["gateway_config"], [], GATEWAY_OPTIONS)
    refuse_unread([n for n in GATEWAY_OPTIONS if n != "gateway_config"], [], GATEWAY_OPTIONS)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("gateway_chrage", "did you mean `gateway_charge`?"),
        ("gatway_network", "did you mean `gateway_network`?"),
        ("gateway-config", "did you mean `gateway_config`?"),
        ("gateway_zzz", ""),
    ],
)
def test_a_mistyped_name_of_ours_is_refused_with_the_nearest(name, cure):
    with pytest.raises(ZeroConfigError, match=f"^{name}: unknown option; ") as refused:
        refuse_unread([], [name], GATEWAY_OPTIONS)

    assert cure in str(refused.value)


def test_the_options_of_another_script_are_none_of_our_business():
    refuse_unread(["gateway_config"], ["proxyauth_file", "my_config", "charge"], GATEWAY_OPTIONS)
