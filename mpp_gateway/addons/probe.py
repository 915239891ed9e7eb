"""Asks an upstream which documents it has of its own, so that ours do not stand before them."""

import asyncio

import aiohttp

from mpp_gateway.config.model import BaseUrl

TIMEOUT_S = 5
NONE = (404, 410)
"""Nothing else says that there is none: a 401, a redirect or a fault may hide a document."""


async def missing_documents(base: BaseUrl, paths: tuple[str, ...]) -> frozenset[str]:
    """Return those of `paths` that the upstream says it does not have; nobody pays for it.

    An upstream that cannot be asked decides for itself later: its paths stay its own.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        lacks = await asyncio.gather(*(_lacks(session, f"{base}{path}") for path in paths))
    return frozenset(path for path, lacking in zip(paths, lacks, strict=True) if lacking)


async def _lacks(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, allow_redirects=False) as response:
            return response.status in NONE
    except (aiohttp.ClientError, TimeoutError):
        return False
