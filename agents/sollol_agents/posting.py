"""Posts results and signals to addresses that the operator permitted, and to no other machine.

A listed name could lead to a machine inside the operator's network, by mistake or by whoever rules its zone. The name
is therefore resolved here, its addresses are judged, and the connection goes to one that was judged: what the name
means a moment later does not count. Redirects are not followed, because they could lead to a host that nobody
permitted, and of an answer only the status is read.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket

import httpx

from sollol_bus.transport.clock import Clock

SIGNATURE = "Sollol-Signature"
_TIMEOUT_S = 10.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotPosted(Exception):
    """The result was not taken; the message says why."""


_CARRIERS = tuple(map(ipaddress.IPv6Network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96")))
"""IPv4-compatible addresses, NAT64 and SIIT: the last 32 bits are an IPv4 address."""


class Poster:
    """Posts to permitted hosts.

    Args:
        clock: What time a signature names: receivers refuse an old one.
        hosts: The hosts.
        secret: Key of the signature; empty: none.
        is_private_permitted: Whether names may lead to private addresses.
    """

    def __init__(self, clock: Clock, *, hosts: tuple[str, ...], secret: str, is_private_permitted: bool) -> None:
        self._clock = clock
        self._hosts = hosts
        self._secret = secret
        self._is_private_permitted = is_private_permitted
        self._http: httpx.AsyncClient | None = None

    async def post(self, url: str, body: bytes) -> None:
        """Returns when the receiver has answered with a success.

        Raises:
            NotPosted: It did not, or may not be asked.
        """
        if not is_permitted_url(url, self._hosts):
            raise NotPosted("the host is not permitted any more")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._send(httpx.URL(url), body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise NotPosted(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Closes what is open."""
        if self._http is not None:
            await self._http.aclose()

    async def _send(self, url: httpx.URL, body: bytes) -> None:
        address = await self._address(url)
        headers = {"Content-Type": "application/json", "Host": url.netloc.decode()}
        if self._secret:
            headers[SIGNATURE] = signature(self._secret, body, int(self._clock.now_unix()))
        target = url.copy_with(host=str(address))
        named = {"sni_hostname": url.host}  # the certificate is the name's, not the address's
        async with self._client().stream("POST", target, content=body, headers=headers, extensions=named) as reply:
            if not reply.is_success:
                raise NotPosted(f"answered {reply.status_code}")

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            # a kept connection would be used again for another name at the same address, unverified
            limits = httpx.Limits(max_keepalive_connections=0)
            self._http = httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False, limits=limits)
        return self._http

    async def _address(self, url: httpx.URL) -> Address:
        """Where to connect: an address that was listed as such, or a permitted one of a listed name."""
        try:
            return ipaddress.ip_address(url.host)
        except ValueError:
            pass  # a name
        port = url.port or (443 if url.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(entry[4][0])) for entry in found]
        for address in addresses:
            if is_permitted_address(address, is_private_permitted=self._is_private_permitted):
                return address
        where = ", ".join(sorted({str(address) for address in addresses}))
        raise NotPosted(f"{url.host} leads to {where}: list that address itself, or set job_callback_private")


_USUAL_PORTS = {"http": "80", "https": "443"}


def is_permitted_url(url: str, hosts: tuple[str, ...]) -> bool:
    """Whether results may be posted to this address: plain http or https to a listed host, without credentials.

    A host that is listed without a port is meant at 80 and 443; `host:*` is meant at every port.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https") or not url.isascii() or not url.isprintable() or " " in url:
        return False
    authority = rest.partition("/")[0].partition("?")[0].partition("#")[0]
    if not authority or "@" in authority or "\\" in authority:
        return False
    host = authority.lower()
    bare, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "")
    is_usual = port in ("", _USUAL_PORTS[scheme])
    return any(known.lower() in (host, f"{bare}:*") or (is_usual and known.lower() == bare) for known in hosts)


def is_permitted_address(address: Address, *, is_private_permitted: bool) -> bool:
    """Whether a listed name may lead there: a public address, or one of the operator's own network if permitted."""
    inner = _carried(address)
    if inner is not None:
        return is_permitted_address(inner, is_private_permitted=is_private_permitted)
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return False
    is_private = address.is_private or getattr(address, "is_site_local", False)
    return is_private_permitted if is_private else address.is_global


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a translator or tunnel takes from an IPv6 address, for what it leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if any(address in net for net in _CARRIERS) and int(address) > 1:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def signature(secret: str, body: bytes, unix_s: int) -> str:
    """The value of the signature header."""
    mac = hmac.new(secret.encode(), f"{unix_s}.".encode() + body, hashlib.sha256)
    return f"t={unix_s},v1={mac.hexdigest()}"
