"""The files of the page, read once, and the policy that lets no others run beside them."""

import base64
import hashlib
from importlib.resources import files
from string import Template

from mpp_gateway.protocol.messages import Headers

_FILES = files(__package__)
SCRIPT = (_FILES / "page.js").read_text("utf-8")
STYLE = (_FILES / "page.css").read_text("utf-8")
TEMPLATE = Template((_FILES / "page.html").read_text("utf-8"))


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash_of(SCRIPT)}",
        f"style-src {_hash_of(STYLE)}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""By hash: no text that finds its way into the page runs, whatever the escaping has missed."""

HEADERS: Headers = (
    ("Content-Security-Policy", POLICY),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)
