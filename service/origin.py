"""Where a request comes from: by the socket; headers can only take away, never give."""

import ipaddress
from urllib.parse import urlsplit

from fastapi import Request

FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")

EVERY_ADDRESS = ("0.0.0.0", "::")
"""What the greeting of a server on all addresses names; no page from elsewhere can."""


def is_loopback(host: str) -> bool:
    """Say whether an address, or a name under localhost, is this machine's own and no other can reach it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def is_local(request: Request) -> bool:
    """Say whether somebody on this machine asks for this machine.

    Not so when a proxy passed it on for somebody else, and not when a page from elsewhere, in a browser on
    this machine, sent it: its Origin is another, or its name was made to point here, which Host shows.
    """
    if not request.client or not is_loopback(request.client.host):
        return False
    if any(header in request.headers for header in FORWARDED):
        return False
    pages = [f"//{request.headers.get('host', '')}", *request.headers.getlist("origin")]
    return all(is_loopback(_host(page)) or _host(page) in EVERY_ADDRESS for page in pages)


def network_of(request: Request) -> str:
    """Return what wrong keys are counted by: an IPv4 address, or the /64 network of an IPv6 one."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and not address.ipv4_mapped:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
