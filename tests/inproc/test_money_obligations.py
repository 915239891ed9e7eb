"""The obligations of a server, row by row: which test holds it to each, or why it is not ours.

Rows: MPP digest, tables 6.1 (C), 6.2 (G) and 6.4 (EV), the latter for `authorization` only.
"""

import ast
import functools
import re
import sqlite3
from pathlib import Path

import pytest

from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.challenge import Challenge
from tests.support.paid import PRICE, paid_gateway, refused, token_of

TESTS = Path(__file__).parents[1]
RECORD = TESTS.parent / "docs" / "adr" / "0006-what-of-the-draft-is-left.md"


class NotOurs(str):
    """Why no test of the gateway's serving side stands behind a row."""

    __slots__ = ()


class InPart(str):
    """The test that shows how far a row holds; the record of decisions says why no further."""

    __slots__ = ()


class Open(str):
    """What does not hold yet, and what takes its place meanwhile."""

    __slots__ = ()


OBLIGATIONS: dict[str, str] = {
    # Core
    "C1": "test_a_challenge_says_all_that_it_must_and_is_small",
    "C2": "test_garbage_is_refused_with_a_fresh_challenge",
    "C3": "test_a_settled_payment_is_refused_the_second_time_with_a_fresh_challenge",
    "C4": "test_a_payment_with_a_changed_member_and_a_sound_signature_is_refused",
    "C5": NotOurs("there is no policy that turns a paid buyer away"),
    "C6": "test_without_a_rail_that_takes_money_a_402_becomes_a_503",
    "C7": "test_a_challenge_says_all_that_it_must_and_is_small",
    "C8": "test_what_is_not_there_is_404_or_405_whoever_offers_to_pay",
    "C9": NotOurs("the gateway authenticates nobody; a front proxy that does comes first"),
    "C10": "test_a_challenge_says_all_that_it_must_and_is_small",
    "C11": "test_a_challenge_with_a_changed_field_is_refused",
    "C12": "test_a_challenge_says_all_that_it_must_and_is_small",
    "C13": "test_a_challenge_says_all_that_it_must_and_is_small",
    "C14": "test_a_challenge_says_all_that_it_must_and_is_small",
    "C15": "test_a_challenge_says_all_that_it_must_and_is_small",
    "C16": InPart("test_a_challenge_without_a_digest_buys_nothing_on_a_route_that_binds_the_body"),
    "C17": "test_a_body_that_was_not_paid_for_is_refused_on_a_route_that_binds_it",
    "C18": "test_a_challenge_says_all_that_it_must_and_is_small",
    "C19": "test_a_challenge_with_a_changed_field_is_refused",
    "C20": "test_moving_text_across_a_slot_boundary_changes_the_id",
    "C21": "test_a_challenge_says_all_that_it_must_and_is_small",
    "C22": "test_a_challenge_says_all_that_it_must_and_is_small",
    "C23": "test_a_credential_of_eight_kilobytes_is_taken",
    "C24": "test_the_receipt_says_what_the_chain_says",
    "C25": "test_the_receipt_says_what_the_chain_says",
    "C26": "test_no_receipt_on_an_answer_that_is_no_success",
    "C27": "test_two_credentials_are_refused_in_two_fields_and_in_one",
    "C28": NotOurs("an allowance; one evm rail makes one challenge, several make several"),
    "C29": "test_own_preferences_rank_as_published",
    "C30": "test_a_header_that_is_absent_broken_or_matches_nothing_leaves_every_offer",
    "C31": "test_any_accept_payment_gets_an_offer_it_can_take_or_leave",
    "C32": "test_a_challenge_with_a_changed_field_is_refused",
    "C33": "test_twenty_copies_at_once_reach_the_upstream_once_and_are_charged_once",
    "C34": "test_members_that_nobody_knows_are_ignored",
    "C35": "test_a_tls_1_1_client_is_refused_and_a_tls_1_2_client_is_served",
    "C36": InPart("test_clear_text_beyond_this_machine_is_refused"),
    "C37": InPart("test_clear_text_beyond_this_machine_is_refused"),
    "C38": "test_no_log_line_holds_a_credential_a_signature_or_a_secret",
    "C39": "test_a_refusal_repeats_nothing_of_the_credential",
    "C40": InPart("test_the_books_hold_no_credential_and_no_signature"),
    "C41": "test_nothing_in_a_loaded_configuration_shows_a_secret",
    "C42": "test_a_rotated_secret_still_verifies_and_a_retired_one_is_refused",
    "C43": "test_a_settled_payment_is_refused_when_its_text_is_written_otherwise",
    "C44": "test_a_payment_that_ends_before_it_could_be_settled_never_reaches_the_upstream",
    "C45": "test_the_same_request_again_gets_the_same_answer_and_runs_nothing",
    "C46": "test_twenty_copies_at_once_reach_the_upstream_once_and_are_charged_once",
    "C47": "test_many_claims_of_one_proof_at_once_are_one_claim",
    "C48": NotOurs("there are no accounts"),
    "C49": "test_no_log_line_holds_a_credential_a_signature_or_a_secret",
    "C50": "test_every_402_says_no_store",
    "C51": "test_a_paid_answer_is_for_no_shared_cache",
    "C52": "test_failing_credentials_are_stopped_before_a_rail_or_the_store_sees_them",
    "C53": NotOurs("the gateway is the origin of its own 402s and follows nobody's"),
    "C54": NotOurs("the operator writes the description in one language; realm is checked ASCII"),
    # charge
    "G1": "test_the_request_says_what_the_draft_says",
    "G2": "test_a_challenge_says_all_that_it_must_and_is_small",
    "G3": "test_a_challenge_says_all_that_it_must_and_is_small",
    "G4": "test_a_challenge_under_a_foreign_secret_is_refused",
    "G5": "test_an_expired_challenge_is_refused_though_its_payment_is_still_good",
    "G6": "test_the_signature_of_another_key_pays_for_nothing",
    "G7": "test_a_payment_with_a_changed_member_and_a_sound_signature_is_refused",
    "G8": "test_a_payment_with_a_changed_member_and_a_sound_signature_is_refused",
    "G9": "test_one_challenge_is_paid_once_though_its_nonce_has_two_forms",
    "G10": "test_money_that_leaves_between_the_check_and_the_settlement_buys_not_one_byte",
    "G11": "test_a_fault_moves_at_most_one_price_and_who_paid_it_is_served",
    "G12": InPart("test_clear_text_beyond_this_machine_is_refused"),
    # evm charge, type `authorization`
    "EV1": "test_a_settled_payment_is_refused_when_its_text_is_written_otherwise",
    "EV2": "test_the_request_says_what_the_draft_says",
    "EV3": NotOurs("credentialTypes is always sent: authorization only"),
    "EV4": NotOurs("permit2 is not supported"),
    "EV5": "test_the_tokens_domain_is_the_one_we_sign",
    "EV6": NotOurs("splits are never asked for; a request with any other member is not ours"),
    "EV7": NotOurs("splits are never asked for"),
    "EV8": NotOurs("splits are never asked for"),
    "EV9": "test_a_payload_of_a_kind_that_is_not_offered_is_refused",
    "EV10": NotOurs("permit2 is not supported"),
    "EV11": "test_an_authorization_for_another_token_or_chain_pays_for_nothing",
    "EV12": NotOurs("type transaction is not supported"),
    "EV13": NotOurs("type hash is not supported"),
    "EV14": "test_money_that_left_between_verify_and_settle_is_refused_and_costs_no_nonce",
    "EV15": "test_the_receipt_says_what_the_chain_says",
    "EV16": "test_the_receipt_says_what_the_chain_says",
    "EV17": "test_two_gateways_on_one_store_accept_a_payment_once",
    "EV18": "test_a_payment_with_a_changed_member_and_a_sound_signature_is_refused",
    "EV19": "test_an_empty_gas_key_withholds_and_refuses_before_anything_is_sent",
    "EV20": NotOurs("permit2 is not supported"),
    "EV21": NotOurs("type hash is not supported"),
    "EV22": NotOurs("the operator names the node; `rpc_url` is documented as trusted"),
}

ROWS = [
    *(f"C{n}" for n in range(1, 55)),
    *(f"G{n}" for n in range(1, 13)),
    *(f"EV{n}" for n in range(1, 23)),
]


# What a server should do, or may. All other rows say must, or must not.
SHOULD_CORE = (7, 8, 9, 15, 16, 19, 20, 22, 24, 27, 29, 32, 33, 37, 40, 42, 45, 47, 49, 52, 53, 54)
SHOULD = {f"C{n}" for n in SHOULD_CORE} | {"G10", "G11", "EV4", "EV14", "EV21", "EV22"}
MAY = {"C28", "C31"}


@functools.cache
def known_tests() -> frozenset[str]:
    names = set()
    for path in TESTS.rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return frozenset(names)


@pytest.mark.parametrize("row", ROWS)
def test_every_obligation_has_a_test_or_a_reason(row):
    answer = OBLIGATIONS[row]
    assert isinstance(answer, NotOurs | Open) or answer in known_tests(), answer
    assert len(answer) > 20


def test_no_row_is_answered_that_nobody_asked():
    assert list(OBLIGATIONS) == ROWS


def rows_that_are(kind):
    return {row for row, answer in OBLIGATIONS.items() if isinstance(answer, kind)}


def test_what_is_open_or_holds_in_part_is_in_the_record_of_decisions():
    named = set(re.findall(r"\b(?:C|G|EV)\d+\b", RECORD.read_text(encoding="utf-8")))
    assert rows_that_are(Open | InPart) <= named
    assert named <= set(ROWS)


def test_nothing_that_a_server_must_do_is_open():
    assert rows_that_are(Open) <= SHOULD | MAY
    assert set(ROWS) >= SHOULD | MAY


# What no other file tests


def test_a_challenge_says_all_that_it_must_and_is_small(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        status, headers, body = gateway.ask()
        value = headers["www-authenticate"]
        challenge = Challenge.parse(value)
        names = re.findall(r"([A-Za-z_-]+)=", re.sub(r'"[^"]*"', '""', value))
        assert names == ["id", "realm", "method", "intent", "request", "expires", "opaque"]
        assert (challenge.method, challenge.intent) == ("evm", "charge")
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", challenge.id)
        assert (status, len(value) < 2048, value.isascii()) == (402, True, True)
        assert challenge.request == jcs.encode_object(challenge.request_object)
        assert challenge.opaque == jcs.encode_object(challenge.opaque_object)
        assert "expires" not in challenge.request_object
        assert b"error" not in value.encode()
        assert b"payment-required" in body


def test_what_is_not_there_is_404_or_405_whoever_offers_to_pay(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        for fields in ((), (f"Authorization: {credential.format()}",)):
            refused(gateway.ask("/api/none", *fields), "not-found", 404)
            refused(gateway.ask("/none/paid", *fields), "not-found", 404)
            answer = gateway.ask("/api/paid", *fields, method="DELETE")
            refused(answer, "method-not-allowed", 405)
        gateway.untouched()


def test_a_credential_of_eight_kilobytes_is_taken(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        credential = gateway.buy()
        members = jcs.decode_object(credential.format().removeprefix("Payment "))
        token = token_of(members | {"padding": "x" * 8000})
        assert len(token) > 8192
        assert gateway.send(token)[0] == 200
        assert gateway.balance() == PRICE


def test_the_books_hold_no_credential_and_no_signature(tmp_path):
    with paid_gateway(tmp_path) as gateway:
        paid, given_up = gateway.buy(), gateway.buy()
        assert gateway.send(paid)[0] == 200
        gateway.keeper.answers("500 Oops")
        assert gateway.send(given_up)[0] == 500
        assert gateway.states() == {"settled": 1, "released": 1}
        with sqlite3.connect(gateway.store) as db:
            kept = "\n".join(db.iterdump())
        db.close()
        for credential in (paid, given_up):
            assert credential.format() not in kept
        # A transfer that was sent is public. What was given up is nowhere, in no form.
        raw = bytes.fromhex(given_up.payload["signature"][2:])[:32]
        assert raw.hex() not in kept.lower()
