"""What the process tests share."""

import pytest

from tests.support.evm import GAS_KEY, PAYER, PURSE_MINOR, address
from tests.support.paid import ChainThread


@pytest.fixture
def chain():
    """A chain of the test's own, with a payer who has money and a key that has gas."""
    thread = ChainThread()
    thread.run(thread.demo.mint(address(PAYER), PURSE_MINOR))
    thread.run(thread.demo.fund_gas(address(GAS_KEY)))
    yield thread
    thread.close()
