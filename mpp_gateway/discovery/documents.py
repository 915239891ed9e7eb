"""The documents of one snapshot, each written once."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.discovery import site as paths
from mpp_gateway.discovery.catalog import compile_catalog
from mpp_gateway.discovery.listing import listing, listing_in_full, service_details
from mpp_gateway.discovery.markdown import listing_markdown, llms_txt, service_markdown
from mpp_gateway.discovery.negotiation import JSON, choose
from mpp_gateway.discovery.openapi import openapi_json
from mpp_gateway.discovery.site import Site
from mpp_gateway.gateway.snapshot import Snapshot

MARKDOWN = "text/markdown"
PLAIN = "text/plain"


@dataclass(frozen=True, slots=True)
class Document:
    """One representation: bytes, media type and strong validator (RFC 9110 section 8.8.3)."""

    media: str
    body: bytes
    etag: str

    @classmethod
    def of(cls, media: str, body: bytes) -> "Document":
        """Return the document with its validator, which tells media types apart too."""
        digest = hashlib.sha256(f"{media}\n".encode() + body).hexdigest()
        return cls(media, body, f'"sha256-{digest}"')

    @property
    def content_type(self) -> str:
        """The value of the `Content-Type` field; JSON is UTF-8 without saying so (RFC 8259)."""
        return self.media if self.media == JSON else f"{self.media}; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """What stands at one path: one document, or JSON and its forms in markdown."""

    documents: Mapping[str, Document]
    """By media type; of the forms in markdown the first is the one for agents."""

    @property
    def is_negotiated(self) -> bool:
        """Whether the request's fields decide which document is sent."""
        return len(self.documents) > 1

    def choose(self, accept: tuple[str, ...], user_agent: str) -> Document:
        """Return the document for a client, see `negotiation.choose`."""
        if not self.is_negotiated:
            return next(iter(self.documents.values()))
        return self.documents[choose(tuple(self.documents), accept, user_agent)]


class Documents:
    """All documents of one configuration. Writing them waits for the first reader."""

    def __init__(
        self, config: GatewayConfig | None, snapshot: Snapshot | None, mount: str = ""
    ) -> None:
        self.config = config
        self.snapshot = snapshot
        self.mount = mount
        self.site = Site.of(config, mount)

    @cached_property
    def pages(self) -> Mapping[str, Page]:
        """The pages by path without prefix; none as long as there is no snapshot."""
        if self.snapshot is None:
            return {}
        catalog = compile_catalog(self.snapshot, self.site)
        llms = llms_txt(catalog)
        everything = listing_markdown(catalog)
        pages = {
            paths.OPENAPI: _page((JSON, openapi_json(catalog))),
            paths.LLMS: _page((PLAIN, llms)),
            paths.LISTING: _page((JSON, listing(catalog)), (PLAIN, llms), (MARKDOWN, llms)),
            paths.LISTING_MARKDOWN: _page((PLAIN, llms)),
            paths.ALL: _page(
                (JSON, listing_in_full(catalog)), (MARKDOWN, everything), (PLAIN, everything)
            ),
            paths.ALL_MARKDOWN: _page((MARKDOWN, everything)),
        }
        texts = {shop.id: service_markdown(catalog, shop) for shop in catalog.shops}
        for shop in catalog.shops:
            text = texts[shop.id]
            page = _page((JSON, service_details(catalog, shop)), (MARKDOWN, text), (PLAIN, text))
            pages.setdefault(paths.TREE + shop.id, page)
        for name, text in texts.items():
            # After the ids: a service may itself be called `weather.md`.
            pages.setdefault(f"{paths.TREE}{name}.md", _page((MARKDOWN, text)))
        return pages


class Library:
    """Keeps the documents until the configuration changes."""

    def __init__(self) -> None:
        self._documents: Documents | None = None

    def of(
        self, config: GatewayConfig | None, snapshot: Snapshot | None, mount: str = ""
    ) -> Documents:
        """Return the documents of the snapshot that is served now, or empty ones before that."""
        kept = self._documents
        if (
            kept is None
            or kept.snapshot is not snapshot
            or kept.config is not config
            or kept.mount != mount
        ):
            kept = self._documents = Documents(config, snapshot, mount)
        return kept


def _page(*forms: tuple[str, bytes]) -> Page:
    return Page({media: Document.of(media, body) for media, body in forms})
