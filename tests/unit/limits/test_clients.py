"""Whom a request is counted against, and what nobody can make of it by writing fields."""

from ipaddress import ip_network

import pytest

from mpp_gateway.limits import clients
from mpp_gateway.limits.clients import HOPS_MAX, NOBODY, counted_as

PROXIES = (ip_network("10.0.0.0/8"), ip_network("127.0.0.1"), ip_network("2001:db8:1::/48"))


def behind(peer, *fields):
    return counted_as(peer, fields, PROXIES)


def test_without_a_proxy_it_is_the_peer():
    assert counted_as("203.0.113.7", (), ()) == "203.0.113.7"


@pytest.mark.parametrize("field", ["198.51.100.1", "127.0.0.1", "10.0.0.1", "nonsense", ""])
def test_an_untrusted_peer_may_write_what_it_likes(field):
    assert behind("203.0.113.7", field) == "203.0.113.7"


def test_a_trusted_proxy_names_its_client():
    assert behind("10.0.0.1", "203.0.113.7") == "203.0.113.7"
    assert behind("127.0.0.1", "203.0.113.7") == "203.0.113.7"
    assert behind("2001:db8:1::9", "203.0.113.7") == "203.0.113.7"


def test_the_first_address_from_the_right_that_is_no_proxy_counts():
    assert behind("10.0.0.1", "1.1.1.1, 203.0.113.7, 10.0.0.3,10.0.0.2") == "203.0.113.7"
    assert behind("10.0.0.1", "1.1.1.1", "203.0.113.7", "10.0.0.2") == "203.0.113.7"


def test_behind_proxies_alone_the_first_of_them_counts():
    assert behind("10.0.0.1", "10.0.0.3, 10.0.0.2") == "10.0.0.3"
    assert behind("10.0.0.1") == "10.0.0.1"
    assert behind("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(
    "field", ["", "unknown", "203.0.113.7;", "203.0.113", "0x7f000001", "a" * 9999, "[::1", "_x"]
)
def test_garbage_from_a_proxy_counts_as_the_last_hop_that_is_known(field):
    assert behind("10.0.0.1", field) == "10.0.0.1"
    assert behind("10.0.0.1", f"1.1.1.1, {field}") == "10.0.0.1"
    assert behind("10.0.0.1", f"{field}, 10.0.0.2") == "10.0.0.2"


@pytest.mark.parametrize(
    ("hop", "client"),
    [
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::7]:4711", "2001:db8::/64"),
        ("[2001:db8::7]", "2001:db8::/64"),
    ],
)
def test_a_port_behind_an_address_is_read_past(hop, client):
    assert behind("10.0.0.1", hop) == client


def test_a_field_without_end_is_not_read_to_its_end():
    hops = ["203.0.113.7", *["10.0.0.2"] * HOPS_MAX]

    assert behind("10.0.0.1", ", ".join(hops)) == "10.0.0.2"
    assert behind("10.0.0.1", ", ".join(hops[:-1])) == "203.0.113.7"


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_not_counted(peer):
    assert counted_as(peer, (), ()) == ""
    assert counted_as(peer, ("203.0.113.7",), ()) == ""


def test_a_loopback_address_that_somebody_reports_is_counted():
    assert behind("10.0.0.1", "127.0.0.1, 10.0.0.2") == "127.0.0.1"
    assert behind("10.0.0.1", "::1") == "::/64"
    assert counted_as("10.0.0.1", ("127.0.0.1",), (ip_network("10.0.0.0/8"),)) == "127.0.0.1"


def test_a_network_of_ipv6_is_one_client():
    one, other = "2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"

    assert counted_as(one, (), ()) == counted_as(other, (), ()) == "2001:db8:0:1::/64"
    assert counted_as("2001:db8:0:2::1", (), ()) == "2001:db8:0:2::/64"
    assert counted_as("fe80::1%" + "x" * 99, (), ()) == "fe80::/64"


def test_a_long_text_is_no_address_and_is_not_remembered():
    long = "fe80::1%" + "x" * 1_000_000

    assert behind("10.0.0.1", long) == "10.0.0.1"
    assert clients._parsed.cache_parameters()["maxsize"] * clients.TEXT_MAX < 2**20


def test_ipv4_in_ipv6_clothes_is_ipv4():
    assert counted_as("::ffff:203.0.113.7", (), ()) == "203.0.113.7"
    assert behind("::ffff:10.0.0.1", "::ffff:203.0.113.7") == "203.0.113.7"


@pytest.mark.parametrize("peer", ["", "somewhere"])
def test_a_peer_without_an_address_is_counted_all_the_same(peer):
    assert counted_as(peer, ("203.0.113.7",), ()) == NOBODY
