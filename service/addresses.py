"""Which network addresses are public: the policy that fetching images keeps to. Opens nothing."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

UNICAST_V6 = IPv6Network("2000::/3")
FORBIDDEN = tuple(
    ip_network(network)
    for network in (
        "100.64.0.0/10",  # shared by carriers; some clouds' metadata
        "168.63.129.16/32",  # Azure's metadata: looks public
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.88.99.0/24",  # relays from IPv6
        "224.0.0.0/4",  # multicast
        "2001::/23",  # protocol assignments: Teredo (which carries IPv4), benchmarks, ORCHID
        "2002::/16",  # 6to4: carries IPv4
        "3fff::/20",  # documentation
    )
)


def is_public(address: Address) -> bool:
    """Return whether an address is an ordinary one of the public internet.

    Of IPv6 only global unicast is: no loopback, link-local, unique local or site-local address, none with a
    zone, and none that carries an IPv4 address, whatever that is: mapped, compatible, NAT64 (64:ff9b::/96 and
    64:ff9b:1::/48), 6to4, Teredo.
    """
    if isinstance(address, IPv6Address) and (address.scope_id is not None or address not in UNICAST_V6):
        return False
    return address.is_global and not any(address in network for network in FORBIDDEN)


def parse_address(host: str) -> Address | None:
    """Return the address that a host is in standard form, None when it is a name or anything else."""
    try:
        return ip_address(host)
    except ValueError:
        return None
