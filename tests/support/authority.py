"""One certificate authority for all the mitmproxies of a test process, and of those it forks."""

import functools
import tempfile

from mitmproxy import certs, options
from mitmproxy.options import CONF_BASENAME


@functools.cache
def share_authority() -> None:
    """Have mitmproxy make its own key once, and read it once.

    At each start it makes one, or reads the one in its folder, and reads it again: two thirds of
    what it costs to start a gateway. No test is about that key.
    """
    certs.create_ca = functools.cache(certs.create_ca)
    certs.load_pem_private_key = functools.cache(certs.load_pem_private_key)
    with tempfile.TemporaryDirectory() as folder:
        certs.CertStore.from_store(folder, CONF_BASENAME, options.KEY_SIZE)
