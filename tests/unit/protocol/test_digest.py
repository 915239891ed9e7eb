import pytest

from mpp_gateway.protocol.digest import content_digest, matches

EMPTY = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
BARE = EMPTY.replace(":", "")


def test_the_rfc_9530_form_is_written():
    assert content_digest(b"") == EMPTY


@pytest.mark.parametrize("text", [EMPTY, BARE, BARE.removesuffix("=")])
def test_both_forms_match_the_body_they_were_made_from(text):
    assert matches(text, b"")
    assert not matches(text, b"x")


@pytest.mark.parametrize(
    "text",
    [
        "", "sha-256=", "sha-256=::", EMPTY[:-1], EMPTY.replace("=:", "=", 1), EMPTY + " ",
        EMPTY.replace("sha-256", "sha-512"), EMPTY.replace("sha-256", "md5"), "é", "\ud800",
        EMPTY + ", " + EMPTY,
    ],
)  # fmt: skip
def test_anything_else_matches_no_body(text):
    assert not matches(text, b"")
