"""For all tests: how much time a generated example may take is no claim of theirs."""

from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
