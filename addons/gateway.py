"""The gateway as a mitmproxy script: `mitmdump -s addons/gateway.py --set gateway_config=FILE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mpp_gateway.addons.build import build_addons

addons = build_addons()
