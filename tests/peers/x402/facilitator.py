"""The official Python facilitator behind /verify, /settle and /supported. Runs in .venv here.

What to settle with is in the environment: FACILITATOR_SITE, as JSON.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from x402 import x402FacilitatorSync
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact.register import register_exact_evm_facilitator
from x402.mechanisms.evm.upto.facilitator import UptoEvmScheme
from x402.schemas.helpers import parse_payment_payload, parse_payment_requirements

SITE = json.loads(os.environ["FACILITATOR_SITE"])
SIGNER = FacilitatorWeb3Signer(SITE["private_key"], SITE["rpc_url"], SITE["confirm_s"])
FACILITATOR = x402FacilitatorSync()
register_exact_evm_facilitator(FACILITATOR, SIGNER, networks=SITE["network"])
FACILITATOR.register([SITE["network"]], UptoEvmScheme(SIGNER))


class Handler(BaseHTTPRequestHandler):
    """Answers as the SDK does; blocking, a thread for each connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(FACILITATOR.get_supported())

    def do_POST(self) -> None:
        print(self.path, flush=True)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        payload = parse_payment_payload(asked["paymentPayload"])
        requirements = parse_payment_requirements(
            payload.x402_version, asked["paymentRequirements"]
        )
        act = {"/verify": FACILITATOR.verify, "/settle": FACILITATOR.settle}[self.path]
        self._answer(act(payload, requirements))

    def _answer(self, model) -> None:
        body = model.model_dump_json(by_alias=True, exclude_none=True).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing but what `do_POST` does."""


ThreadingHTTPServer(("127.0.0.1", SITE["port"]), Handler).serve_forever()
