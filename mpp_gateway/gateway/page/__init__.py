"""The payment page: a 402 for people, with a wallet in their browser."""
