"""base64url without padding (RFC 4648 section 5), as every MPP header carries it."""

import binascii

from mpp_gateway.protocol.problems import ParseError

_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_PADDING = (b"", b"", b"==", b"=")
_PADDING_CHARS_MAX = 2


def encode(data: bytes) -> str:
    """Return `data` in base64url without padding."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes of `text`; also takes padding and the standard alphabet, as clients send.

    Raises ParseError for any other character, padding that does not fill the last four characters,
    or a length that no encoder produces.
    """
    try:
        data = text.encode("ascii")
        bare = data.rstrip(b"=")
        padding = len(data) - len(bare)
        if padding and (padding > _PADDING_CHARS_MAX or len(data) & 3):
            raise ParseError("wrong base64url padding")
        padded = bare.translate(_FROM_URL) + _PADDING[len(bare) & 3]
        return binascii.a2b_base64(padded, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        # The cause may carry the text, which may be a credential: no log may meet it.
        raise ParseError("not base64url") from None
