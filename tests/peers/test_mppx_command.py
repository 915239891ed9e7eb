"""mppx's own command line pays a real gateway, as a person at a terminal would."""

import subprocess

from tests.peers.shop import ANSWER_S, PRICE, PURSE, Shop
from tests.support.components import PEERS


def test_the_command_line_of_mppx_pays_the_exact_price_and_prints_the_answer(shop: Shop):
    buyer, takings = shop.buyer("mppx"), shop.takings

    done = subprocess.run(
        [PEERS / "node_modules" / ".bin" / "mppx", f"{shop.url}/api/paid", "--silent"],
        env={**buyer.environ, "MPPX_CONFIG": str(PEERS / "mppx" / "config.mjs")},
        capture_output=True,
        text=True,
        timeout=ANSWER_S,
        check=False,
    )

    assert (done.returncode, done.stdout.strip()) == (0, '{"ok":true}'), done.stderr
    assert (buyer.balance, shop.takings) == (PURSE - PRICE, takings + PRICE)
