"""server/forwarded.py: which address limits apply to, in whatever form proxies write it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.server import forwarded
from nx_signal.server.forwarded import Address, client_address, is_confidential

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("2001:db8:1::/48"))
PROXY, CLIENT = "10.0.0.1", "203.0.113.9"
V6, V6_NETWORK = "2001:db8:2:3::4", "2001:db8:2:3::/64"


def of(peer: str, *headers: tuple[str, str]) -> str:
    return client_address(peer, [(name.encode(), value.encode()) for name, value in headers], PROXIES)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:5:2:3:4:5:6", "2001:db8:5:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        (PROXY, PROXY),
        ("", ""),
    ],
)
def test_without_a_header_it_is_the_peers(peer: str, address: str) -> None:
    assert of(peer) == address


@pytest.mark.parametrize("header", [("X-Forwarded-For", CLIENT), ("Forwarded", f"for={CLIENT}")])
def test_a_peer_that_is_no_trusted_proxy_is_not_asked(header: tuple[str, str]) -> None:
    assert of("192.0.2.1", header) == "192.0.2.1"


FORMS = [
    *((CLIENT, CLIENT), (f" {CLIENT} ", CLIENT), (f"{CLIENT}:4711", CLIENT), (f'"{CLIENT}:4711"', CLIENT)),
    *((f"::ffff:{CLIENT}", CLIENT), (f"[::ffff:{CLIENT}]:80", CLIENT)),
    *(
        (V6, V6_NETWORK),
        (f"[{V6}]", V6_NETWORK),
        (f"[{V6}]:4711", V6_NETWORK),
        (f'"[{V6}]:4711"', V6_NETWORK),
    ),
    *((V6.upper(), V6_NETWORK), (f"{V6}%eth0", V6_NETWORK), (f"[{V6}%1]:80", V6_NETWORK)),
]
UNKNOWN = [
    "unknown",
    "_hidden",
    '"_gazonk:80"',
    "",
    ",",
    "-",
    "nonsense",
    "203.0.113",
    "1.2.3.4.5",
    "[",
    "[]:80",
]


@pytest.mark.parametrize("peer", [PROXY, f"::ffff:{PROXY}", "fd00::1"])
@pytest.mark.parametrize(("written", "address"), FORMS)
def test_each_form_of_x_forwarded_for_is_read(peer: str, written: str, address: str) -> None:
    assert of(peer, ("X-Forwarded-For", written)) == address
    assert of(peer, ("x-forwarded-for", f"6.6.6.6, {written},10.0.0.2")) == address
    assert (
        of(peer, ("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", f"{written}, [fd00::2]:443")) == address
    )


@pytest.mark.parametrize(("written", "address"), FORMS)
def test_each_form_of_forwarded_is_read(written: str, address: str) -> None:
    quoted = written if written.strip().startswith('"') else f'"{written}"'
    assert of(PROXY, ("Forwarded", f"for={quoted}")) == address
    chain = f'for=6.6.6.6;by="a,b;c\\"", proto=https;For={quoted};host=h, for=10.0.0.2'
    assert of(PROXY, ("Forwarded", chain)) == address
    assert of(PROXY, ("forwarded", "for=6.6.6.6"), ("forwarded", f"for={quoted} ;proto=http")) == address


@pytest.mark.parametrize("written", UNKNOWN)
def test_behind_a_hop_that_is_not_known_no_address_is_believed(written: str) -> None:
    assert of(PROXY, ("X-Forwarded-For", f"6.6.6.6, {written}")) == PROXY
    if written not in ("", ","):
        assert of(PROXY, ("Forwarded", f"for=6.6.6.6, for={written}")) == PROXY
    assert of(PROXY, ("Forwarded", "for=6.6.6.6, proto=https")) == PROXY


def test_a_chain_of_trusted_proxies_alone_ends_at_its_first() -> None:
    assert of(PROXY, ("X-Forwarded-For", "10.1.1.1, 10.2.2.2")) == "10.1.1.1"


def test_a_header_that_the_proxy_does_not_write_gains_its_client_nothing() -> None:
    assert of(PROXY, ("X-Forwarded-For", CLIENT), ("Forwarded", f"for={CLIENT}:80")) == CLIENT
    assert of(PROXY, ("X-Forwarded-For", CLIENT), ("Forwarded", "for=6.6.6.6")) == PROXY
    assert of(PROXY, ("X-Forwarded-For", "6.6.6.6"), ("Forwarded", f"for={CLIENT}")) == PROXY


@given(st.text(max_size=60), st.text(alphabet='for=,;:"[]\\ .0123456789abcdef', max_size=60))
def test_any_other_header_is_survived(one: str, two: str) -> None:
    for value in (one, two):
        raw = value.encode("utf-8", "surrogatepass")
        assert client_address(PROXY, [(b"X-Forwarded-For", raw), (b"Forwarded", raw)], PROXIES)


@pytest.mark.parametrize("field", ["X-Forwarded-For", "Forwarded"])
def test_what_a_client_writes_before_its_proxies_is_not_read(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0

    def counting(text: str) -> Address | None:
        nonlocal read
        read += 1
        return address(text)

    address = forwarded._address
    monkeypatch.setattr(forwarded, "_address", counting)
    prefix = "for=" if field == "Forwarded" else ""
    claimed = (field, ",".join([f"{prefix}6.6.6.6"] * 500))
    assert of(PROXY, *[claimed] * 4, (field, f"{prefix}{CLIENT}, {prefix}10.0.0.2")) == CLIENT
    assert read < 100


# --- whether others may read it ---

LOCAL = "127.0.0.1"


def confidential(peer: str, *headers: tuple[str, str]) -> bool:
    return is_confidential(peer, [(name.encode(), value.encode()) for name, value in headers], PROXIES)


@pytest.mark.parametrize("peer", [LOCAL, "::1", "127.1.2.3", "::ffff:127.0.0.1"])
def test_a_client_on_this_machine_is_read_by_nobody_else(peer: str) -> None:
    assert confidential(peer)


@pytest.mark.parametrize("peer", [CLIENT, V6, PROXY, "", "unix"])
def test_a_client_elsewhere_may_be_read_without_tls(peer: str) -> None:
    assert not confidential(peer)


@pytest.mark.parametrize("peer", [PROXY, LOCAL])
@pytest.mark.parametrize(
    "header",
    [("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "HTTPS"), ("Forwarded", 'for=x;proto="https"')],
)
def test_a_proxy_that_ended_tls_states_it(peer: str, header: tuple[str, str]) -> None:
    assert confidential(peer, ("X-Forwarded-For", CLIENT), header)


def test_a_client_that_is_no_trusted_proxy_states_nothing() -> None:
    assert not confidential(CLIENT, ("X-Forwarded-Proto", "https"))


@pytest.mark.parametrize("peer", [PROXY, LOCAL])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("X-Forwarded-Proto", "http")],
        [("X-Forwarded-Proto", "https, http")],
        [("X-Forwarded-Proto", "https"), ("Forwarded", "proto=http")],
        [("X-Forwarded-Proto", "")],
        [("X-Forwarded-Proto", "httpsx")],
    ],
)
def test_one_hop_without_tls_may_be_read(peer: str, headers: list[tuple[str, str]]) -> None:
    assert not confidential(peer, ("X-Forwarded-For", CLIENT), *headers)


def test_a_proxy_on_this_machine_with_a_client_on_it_is_read_by_nobody_else() -> None:
    assert confidential(LOCAL, ("X-Forwarded-For", LOCAL), ("X-Forwarded-Proto", "http"))


@pytest.mark.parametrize("hop", [CLIENT, "unknown", f"{LOCAL}, {CLIENT}", f"{CLIENT}, {LOCAL}"])
def test_any_hop_elsewhere_or_unknown_may_read(hop: str) -> None:
    assert not confidential(LOCAL, ("X-Forwarded-For", hop))
    assert not confidential(LOCAL, ("X-Forwarded-For", LOCAL), ("Forwarded", f"for={CLIENT}"))
