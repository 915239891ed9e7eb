"""Checking one piece of a document against its model, and saying what is wrong in plain words."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from mpp_gateway.config.document import Document, Path
from mpp_gateway.config.model import HIDDEN

FOUND_LENGTH_MAX = 60

SECRET_KEYS = frozenset(
    {"api_key", "auth", "authorization", "headers", "private_key", "rpc_url", "secret_key", "store"}
)
"""Keys at or below which no value is ever shown; a test compares them with the models."""

KEY_HOLDERS = frozenset({"submit"})
"""Mappings with a key in them: whoever forgets the mapping writes the key itself there."""
_LIKE_A_KEY = re.compile(r"[0-9A-Fa-f]{60,}")
_QUERY = re.compile(r"\?\S*")
_USER_INFORMATION = re.compile(r"[^\s/]*@")
_EXPECTED = {
    "string_type": "a text (in quotes, if it looks like a number)",
    "string_too_short": "a text that is not empty",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "too_short": "a list that is not empty",
}


def check[M: BaseModel](model: type[M], data: Any, document: Document, path: Path) -> M | None:
    """Validate `data`, noting every mistake, and return what can still be used of it.

    After a mistake the keys that hold it are left out and the rest is validated again, so that
    later checks see the rest; None when nothing can be saved.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
    for detail in _innermost(details):
        _note(model, detail, document, path)
    if not isinstance(data, Mapping):
        return None
    wrong = {detail["loc"][0] for detail in details if detail["loc"]}
    rest = {key: value for key, value in data.items() if key not in wrong}
    if len(rest) == len(data):
        return None
    try:
        return model.model_validate(rest)
    except ValidationError:
        return None


def show(document: Document, path: Path) -> str:
    """Return what stands at a path, fit for a message: shortened, and masked where secret."""
    if is_hidden(document, path):
        return HIDDEN
    value = _value_at(document.data, path)
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, tuple):
        return "a list"
    if value is None:
        return "nothing"
    text = _USER_INFORMATION.sub("***@", document.texts.get(path, str(value)))
    if path[-1] in KEY_HOLDERS or _LIKE_A_KEY.search(text):
        # A key that was pasted one level too high, or into the wrong line.
        return HIDDEN
    text = _QUERY.sub("?***", text)
    if len(text) > FOUND_LENGTH_MAX:
        text = text[: FOUND_LENGTH_MAX - 1] + "…"
    return repr(text) if isinstance(value, str) else text


def is_hidden(document: Document, path: Path) -> bool:
    """Tell whether the value at a path is a secret, or came from the environment."""
    below = any(inner[: len(path)] == path for inner in document.from_environment)
    return below or any(part in SECRET_KEYS for part in path)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that lists what is known, the nearest first."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known here: {', '.join(names)}" if names else "there is none"


def _innermost(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out what only follows: a list is also reported as too short when an item is wrong."""
    places = [detail["loc"] for detail in details]
    return [
        detail
        for detail, place in zip(details, places, strict=True)
        if not any(p[: len(place)] == place for p in places if len(p) > len(place))
    ]


def _note(model: type[BaseModel], detail: ErrorDetails, document: Document, path: Path) -> None:
    where: Path = (*path, *detail["loc"])
    kind = detail["type"]
    if kind == "missing":
        document.add(where[:-1], f"`{where[-1]}` is missing")
        return
    if kind == "extra_forbidden":
        keys = _keys_of(model, detail["loc"][:-1])
        document.add(where, f"unknown key; {did_you_mean(str(where[-1]), keys)}")
        return
    if where[-1:] == ("[key]",):  # a name of a mapping, such as that of a header
        where = where[:-1]
        document.add(where, f"the name must be {_expected(detail, document, where)}")
        return
    where = document.written(where)
    document.add(where, _expected(detail, document, where), show(document, where))


def _expected(detail: ErrorDetails, document: Document, path: Path) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "expected":
        return str(context["expected"])
    if kind == "unquoted":
        if is_hidden(document, path):
            return "a decimal string in quotes"
        return f'a decimal string: write "{document.texts.get(path, "0.05")}" in quotes'
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "`")
    if kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
        return next(f"{words[key]} {bound:g}" for key, bound in context.items() if key in words)
    if kind == "string_too_long":
        return f"a text of at most {context['max_length']} characters"
    return _EXPECTED.get(kind) or detail["msg"].lower()


def _value_at(data: Any, path: Path) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _keys_of(model: type[BaseModel], loc: tuple[str | int, ...]) -> Iterable[str]:
    """Return the keys of the model that a location within `model` leads to."""
    for part in loc:
        field = model.model_fields.get(str(part)) if isinstance(part, str) else None
        if field is not None:
            inner = _models_in(field.annotation)
            model = inner[0] if inner else model
    return model.model_fields


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def holds_secret(annotation: Any) -> bool:
    """Tell whether a field of this type has a secret in it, at any depth."""
    if annotation is SecretStr:
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.values()
        return any(holds_secret(field.annotation) for field in fields)
    return any(holds_secret(part) for part in get_args(annotation))
