from typing import Any

import pytest
from fastapi import Request

from service.origin import is_local, is_loopback, network_of


def request(client: str | None, **headers: str) -> Request:
    scope: dict[str, Any] = {"type": "http", "client": client and (client, 1), "headers": []}
    given = {"host": "localhost:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]
    return Request(scope)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "localhost", "a.localhost"]
)
def test_this_machines_own_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "192.168.1.1",
        "::ffff:10.0.0.1",
        "fe80::1",
        "testclient",
        "",
        "localhost.evil.example",
    ],
)
def test_addresses_that_others_have_or_reach(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "0.0.0.0:8000"])
def test_a_program_on_this_machine_is_local(client: str, host: str) -> None:
    assert is_local(request(client, host=host))
    assert is_local(request(client, host=host, origin=f"http://{host}"))


@pytest.mark.parametrize("client", ["10.0.0.1", "203.0.113.9", "2001:db8::1", "testclient", None])
def test_who_comes_from_elsewhere_is_not_whatever_they_write(client: str | None) -> None:
    assert not is_local(request(client))
    assert not is_local(request(client, x_forwarded_for="127.0.0.1", x_real_ip="127.0.0.1"))


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_for": "203.0.113.9"},
        {"x_forwarded_for": "127.0.0.1"},
        {"forwarded": "for=203.0.113.9"},
        {"via": "1.1 proxy"},
        {"x_real_ip": "203.0.113.9"},
    ],
)
def test_what_a_proxy_on_this_machine_passes_on_is_not_local(headers: dict[str, str]) -> None:
    assert not is_local(request("127.0.0.1", **headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example:8000"},
        {"host": "localhost.evil.example"},
        {"host": ""},
        {"host": "[::1"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://10.0.0.1:8000"},
    ],
)
def test_what_a_page_from_elsewhere_sends_is_not_local(headers: dict[str, str]) -> None:
    assert not is_local(request("127.0.0.1", **headers))


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        (None, ""),
    ],
)
def test_wrong_keys_are_counted_by_who_may_have_sent_them(client: str | None, network: str) -> None:
    assert network_of(request(client)) == network
