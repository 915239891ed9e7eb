"""Functions of the operator's own code, named in the configuration as `package.module:function`."""

import importlib
import re
from collections.abc import Callable
from typing import Any

_IMPORT_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)\Z")

IMPORT_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""What goes wrong while foreign code is imported; anything else stops the start as it is."""


def find_function(text: str) -> Callable[..., Any]:
    """Import a function; ValueError says why that fails.

    The message of a foreign exception is left out: it may quote what the module read.
    """
    match = _IMPORT_PATH.match(text)
    if match is None:
        raise ValueError("an import path such as package.module:function")
    try:
        module = importlib.import_module(match[1])
    except ModuleNotFoundError as error:
        raise ValueError(f"an importable module: there is no module {error.name}") from None
    except IMPORT_FAILURES as error:
        kind = type(error).__name__
        raise ValueError(f"an importable module: importing it raises {kind}") from None
    function = getattr(module, match[2], None)
    if not callable(function):
        message = f"a function of that module: it has no function {match[2]}"
        raise ValueError(message)  # noqa: TRY004 - the value is wrong: it names no function
    return function  # type: ignore[no-any-return]
