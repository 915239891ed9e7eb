import pytest
from eth_account.messages import encode_typed_data

from mpp_gateway.crypto import eip712, keccak256
from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.eip712 import Eip712Domain

CONTRACT = bytes.fromhex("cccccccccccccccccccccccccccccccccccccccc")


def test_the_domain_of_the_standards_own_example_has_its_published_separator():
    domain = Eip712Domain("Ether Mail", "1", 1, CONTRACT)

    assert domain.separator.hex() == (
        "f2cee375fa42b42143804025fc449deafd50cc031ca257e0b194a650a912090f"
    )


def test_the_mail_of_the_standards_own_example_has_its_published_digest():
    person = eip712.type_hash("Person(string name,address wallet)")
    mail = eip712.type_hash(
        "Mail(Person from,Person to,string contents)Person(string name,address wallet)"
    )
    cow = bytes.fromhex("CD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826")
    bob = b"\xbb" * 20

    struct = eip712.hash_struct(
        mail,
        eip712.hash_struct(person, eip712.string("Cow"), eip712.address(cow)),
        eip712.hash_struct(person, eip712.string("Bob"), eip712.address(bob)),
        eip712.string("Hello, Bob!"),
    )

    assert eip712.signing_digest(Eip712Domain("Ether Mail", "1", 1, CONTRACT), struct).hex() == (
        "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"
    )


@pytest.mark.parametrize(("version", "contract"), [("2", CONTRACT), (None, CONTRACT), ("3", None)])
def test_members_that_are_left_out_leave_the_domain_type_too(version, contract):
    domain = {"name": "Permit2", "chainId": 8453}
    types = [{"name": "name", "type": "string"}]
    if version is not None:
        domain["version"] = version
        types.append({"name": "version", "type": "string"})
    types.append({"name": "chainId", "type": "uint256"})
    if contract is not None:
        domain["verifyingContract"] = checksum(contract)
        types.append({"name": "verifyingContract", "type": "address"})
    peer = encode_typed_data(
        full_message={
            "domain": domain,
            "types": {"EIP712Domain": types, "Note": [{"name": "text", "type": "string"}]},
            "primaryType": "Note",
            "message": {"text": "hello"},
        }
    )
    struct = eip712.hash_struct(eip712.type_hash("Note(string text)"), eip712.string("hello"))
    ours = Eip712Domain("Permit2", version, 8453, contract)

    assert ours.separator == peer.header
    assert eip712.signing_digest(ours, struct) == keccak256(b"\x19\x01" + peer.header + peer.body)


@pytest.mark.parametrize(
    ("encode", "value"),
    [
        (eip712.uint256, -1),
        (eip712.uint256, 2**256),
        (eip712.address, bytes(19)),
        (eip712.address, bytes(21)),
        (eip712.bytes32, bytes(31)),
        (eip712.bytes32, bytes(33)),
    ],
)
def test_a_value_that_does_not_fit_its_word_is_refused(encode, value):
    with pytest.raises(ValueError, match=r"."):
        encode(value)
