"""What the parts of the resolution share: the document, the root's values, small conversions."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal
from urllib.parse import urlsplit

from mpp_gateway.config.document import Document, Path, format_path
from mpp_gateway.config.methods import Method
from mpp_gateway.config.model import BaseUrl, Timeouts
from mpp_gateway.config.report import show
from mpp_gateway.config.settings import RootSettings, TimeoutSettings
from mpp_gateway.config.values import is_loopback
from mpp_gateway.errors import Mistake


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that the resolution of one service needs to know of the rest of the file."""

    document: Document
    root: RootSettings
    methods: Mapping[str, Method | None]
    """None stands for a method whose settings are wrong: declared, but not to be used."""
    timeouts: Timeouts
    withheld: list[Mistake] = field(default_factory=list)
    """Offers that are not made, and why: no mistakes, but worth knowing."""

    def withhold(self, path: Path, why: str) -> None:
        """Note that the offer at `path` is not made."""
        line = self.document.line(path)
        self.withheld.append(Mistake(self.document.file, line, format_path(path), why))

    def fail(self, path: Path, expected: str) -> None:
        """Note that what stands at `path` is not what is expected."""
        self.document.add(path, expected, show(self.document, path))

    def check_clear_text(self, url: str, path: Path) -> None:
        """Refuse `http://` to another machine: prices, proofs and keys would travel readable."""
        parts = urlsplit(url)
        if parts.scheme == "https" or is_loopback(parts.hostname or ""):
            return
        if not self.root.allow_insecure:
            cure = "an https:// URL; http:// is for this machine, or with `allow_insecure: true`"
            self.fail(path, cure)


def merge_timeouts(base: Timeouts, settings: TimeoutSettings) -> Timeouts:
    """Return the timeouts with those replaced that are given."""
    given = {item.name: getattr(settings, item.name) for item in fields(base)}
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def read_base_url(url: str, *, is_hidden: bool = False) -> BaseUrl:
    """Split a URL that has been checked."""
    parts = urlsplit(url)
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    port = parts.port or (443 if scheme == "https" else 80)
    return BaseUrl(scheme, parts.hostname or "", port, parts.path, is_hidden)
