"""HTTP over aiohttp."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import ResolveResult

from penstock.base.limits import CLIENT_ANSWER_BYTES_MAX
from penstock.client.answers import Answer
from penstock.client.ports import NoAnswer


class AiohttpTransport:
    """Connections are kept and used again. Make it on the loop that uses it."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_Resolver()), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_ms: int
    ) -> Answer:
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=_proxy(url),
                timeout=aiohttp.ClientTimeout(total=timeout_ms / 1000),
            ) as response:
                content = await _read(response)
                names = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, names, content)
        except RuntimeError as error:
            if not self._session.closed:
                raise
            raise NoAnswer(f"The client was closed before {url} answered.", hopeless=True) from error
        except TimeoutError:
            raise NoAnswer(f"No answer from {url} within {timeout_ms} ms.") from None
        except (aiohttp.ClientSSLError, aiohttp.InvalidURL) as error:
            raise NoAnswer(f"No connection to {url}: {error}.", hopeless=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer(f"No answer from {url}: {str(error) or type(error).__name__}.") from error

    async def close(self) -> None:
        await self._session.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > CLIENT_ANSWER_BYTES_MAX:
            raise NoAnswer(f"The answer of {response.url} has more than {CLIENT_ANSWER_BYTES_MAX} bytes.")
    return bytes(content)


def _proxy(url: str) -> str | None:
    """The proxy that the environment names, as the standard library reads it. Not aiohttp's `trust_env`, which also
    takes passwords from .netrc and would send loopback requests to a proxy, which cannot reach this machine's."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies()
    if parts.scheme not in proxies or _is_loopback(host) or proxy_bypass(host):
        return None
    return proxies[parts.scheme]


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Resolver(aiohttp.ThreadedResolver):
    """Resolves in a thread while there can be one.

    When the interpreter exits, its thread pools are shut before a client gets to send what it still has. Nothing
    else runs by then, so the loop may as well wait.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            return await super().resolve(host, port, family)
        except RuntimeError:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=family, proto=proto, flags=flags)
            for family, _, proto, _, address in found
        ]
