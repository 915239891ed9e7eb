"""The gateway as a mitmproxy script: `mitmdump -s addons/gateway.py --set gateway_config=FILE`."""

import sys
from pathlib import Path

# Into a pipe or a file too: whoever watches a service's log must see it open, and see it fail.
sys.stdout.reconfigure(line_buffering=True)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

try:
    from mpp_gateway.addons import sentinel
    from mpp_gateway.addons.build import build_addons
    from mpp_gateway.addons.chain import Chain

    # Before anything else can fail: mitmproxy goes on without a script that did not load, as a
    # plain proxy that lets everybody through.
    sentinel.post()
    addons = [Chain(build_addons())]
except Exception as error:
    sys.exit(f"gateway: the script cannot be loaded: {error!r}")
