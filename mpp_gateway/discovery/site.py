"""Where the documents stand, and how they are linked to."""

from dataclasses import dataclass

from mpp_gateway.config.model import GatewayConfig

OPENAPI = "/openapi.json"
LLMS = "/llms.txt"
LISTING = "/discover"
LISTING_MARKDOWN = "/discover.md"
ALL = "/discover/all"
ALL_MARKDOWN = "/discover/all.md"
ALIVE = "/healthz"
READY = "/readyz"
FIXED = (OPENAPI, LLMS, LISTING, LISTING_MARKDOWN, ALIVE, READY)
TREE = "/discover/"


@dataclass(frozen=True, slots=True)
class Site:
    """The paths that discovery answers. `origin` is what stands before a path in a link, or ""."""

    origin: str
    prefixes: tuple[str, ...]
    """What stands before `/openapi.json`; the last one is used in links."""
    fixed: frozenset[str]
    trees: tuple[str, ...]

    @classmethod
    def of(cls, config: GatewayConfig | None, mount: str = "") -> "Site":
        """Return the site of a configuration: at the origin's root, and under its `base_path` too.

        `mount` goes before every path, for a gateway whose root belongs to the service it sells.
        """
        base = "" if config is None else config.base_path
        mount = mount.rstrip("/")
        prefixes = [mount, base + mount] if base else [mount]
        if (base + "/").startswith(mount + TREE):
            # A service at /discover/weather would lie below the root's own /discover/{id}.
            del prefixes[0]
        return cls(
            origin="" if config is None or config.public_url is None else config.origin,
            prefixes=tuple(prefixes),
            fixed=frozenset(prefix + path for prefix in prefixes for path in FIXED),
            trees=tuple(prefix + TREE for prefix in prefixes),
        )

    def within(self, path: str) -> str | None:
        """Return a request's path without its prefix, or None when the path is not ours."""
        if path not in self.fixed and not path.startswith(self.trees):
            return None
        # The longer prefix first: a mount may itself look like the start of another.
        for prefix in reversed(self.prefixes):
            rest = path.removeprefix(prefix)
            if path.startswith(prefix) and (rest in FIXED or rest.startswith(TREE)):
                return rest
        return None

    def link(self, path: str) -> str:
        """Return the address of a document: absolute with `public_url`, else an absolute path."""
        return f"{self.origin}{self.prefixes[-1]}{path}"
