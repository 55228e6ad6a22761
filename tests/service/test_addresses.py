from ipaddress import ip_address

import pytest

from service.addresses import is_public, parse_address

FORBIDDEN = {
    "loopback": "127.0.0.1 127.1.2.3 ::1",
    "this host": "0.0.0.0 0.1.2.3 ::",
    "private": "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 fc00::1 fd12:3456::1",
    "link-local": "169.254.1.1 fe80::1 fe80::1%eth0 febf::1",
    "site-local": "fec0::1",
    "a zone": "2606:4700::1111%1",
    "clouds' metadata": "169.254.169.254 169.254.170.2 100.100.100.200 192.0.0.192 168.63.129.16",
    "clouds' metadata of IPv6": "fd00:ec2::254 fd20:ce::254",
    "shared by carriers": "100.64.0.1 100.127.255.255",
    "multicast": "224.0.0.1 239.255.255.250 ff02::1 ff0e::1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1 192.0.0.8 4000::1 5f00::1 100::1",
    "benchmarks": "198.18.0.1 198.19.255.255 2001:2::1",
    "documentation": "192.0.2.1 198.51.100.1 203.0.113.1 2001:db8::1 3fff::1",
    "relays": "192.88.99.1",
    "IPv4-mapped": "::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8",
    "IPv4-compatible": "::127.0.0.1 ::8.8.8.8",
    "NAT64": "64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::8.8.8.8 64:ff9b:1::10.0.0.1",
    "6to4": "2002:7f00:1:: 2002:808:808::1",
    "Teredo": "2001::1 2001:0:808:808::1",
    "ORCHID": "2001:10::1 2001:20::1",
}


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_an_address_that_is_not_of_the_public_internet_is_forbidden(kind: str) -> None:
    for address in FORBIDDEN[kind].split():
        assert not is_public(ip_address(address)), address


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::8a"],
)
def test_an_ordinary_address_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.0.0.1", "127.0.0.1.", "a.example", ""]
)
def test_only_the_standard_form_is_an_address(host: str) -> None:
    assert parse_address(host) is None


def test_an_address_is_read_in_its_standard_form() -> None:
    for host in ("127.0.0.1", "::1", "fe80::1%eth0"):
        assert parse_address(host) == ip_address(host)
