"""Asks an upstream which documents it has of its own, so that ours do not stand before them."""

import asyncio

import aiohttp

from mpp_gateway.config.model import BaseUrl

TIMEOUT_S = 5
FOUND = range(200, 300)


async def missing_documents(base: BaseUrl, paths: tuple[str, ...]) -> frozenset[str]:
    """Return those of `paths` that the upstream does not answer with 2xx; nobody pays for it."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        found = await asyncio.gather(*(_has(session, f"{base}{path}") for path in paths))
    return frozenset(path for path, has in zip(paths, found, strict=True) if not has)


async def _has(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, allow_redirects=False) as response:
            return response.status in FOUND
    except (aiohttp.ClientError, TimeoutError):
        return False
