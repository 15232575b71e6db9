"""Which addresses are refused, however they are written and whatever carries them (battery 35, redirect_ssrf)."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_http_util._addresses import address_of, why_refused

LINK_LOCAL = ipaddress.ip_network("169.254.0.0/16")
METADATA = {"100.100.100.200", "192.0.0.192"}

ANY = st.ip_addresses(v=4)
REFUSED = st.ip_addresses(network=LINK_LOCAL) | st.sampled_from(sorted(METADATA)).map(ipaddress.IPv4Address)


def told(host: str) -> str | None:
    address = address_of(host)
    assert address is not None
    return why_refused(address)


def expected(address: ipaddress.IPv4Address) -> str | None:
    if address in LINK_LOCAL:
        return "a link-local address"
    return "a cloud's metadata" if str(address) in METADATA else None


@given(ANY | REFUSED)
def test_an_ipv4_address(address: ipaddress.IPv4Address) -> None:
    """Of all IPv4 addresses those of 169.254.0.0/16 and the clouds' own are refused, and no other."""
    assert told(str(address)) == expected(address)


@given(ANY | REFUSED)
def test_notations(address: ipaddress.IPv4Address) -> None:
    """An address is the same in every notation that the system's resolver reads."""
    number, (a, b, *_) = int(address), address.packed
    for host in (str(number), hex(number), f"{a}.{b}.{number & 0xFFFF}", f"0{a:o}.{number & 0xFFFFFF}"):
        assert address_of(host) == ipaddress.IPv4Address(socket.inet_aton(host)) == address
        assert told(host) == expected(address)


@given(ANY | REFUSED)
def test_carried_in_ipv6(address: ipaddress.IPv4Address) -> None:
    """Mapped, translated or tunnelled, an address is what it was."""
    halves = f"{int(address) >> 16:x}:{int(address) & 0xFFFF:x}"
    for host in (
        f"::ffff:{address}",
        f"::ffff:{halves}",
        f"64:ff9b::{halves}",
        f"64:ff9b:1::{halves}",
        f"2002:{halves}::1",
        f"::{halves}",
    ):
        assert told(host) == expected(address)


@given(st.ip_addresses(network="fe80::/10"))
def test_ipv6_link_local(address: ipaddress.IPv6Address) -> None:
    """fe80::/10 is refused, with an interface and without."""
    assert told(str(address)) == told(f"{address}%eth0") == "a link-local address"


@pytest.mark.parametrize("host", ["fd00:ec2::254", "fd20:ce::254", "FD00:0EC2:0:0:0:0:0:254"])
def test_ipv6_metadata(host: str) -> None:
    """The IPv6 addresses where clouds keep their metadata are refused."""
    assert told(host) == "a cloud's metadata"


@pytest.mark.parametrize("host", ["::1", "::", "2001:db8::1", "fd00:ec2::253", "64:ff9b::a00:7", "2002:a00:7::1"])
def test_other_ipv6(host: str) -> None:
    """Any other IPv6 address is spoken to."""
    assert told(host) is None


@given(st.from_regex(r"[g-z][a-z0-9-]{0,20}(\.[g-z][a-z0-9-]{0,9}){0,3}", fullmatch=True))
def test_a_name_is_no_address(name: str) -> None:
    """What is looked up as a name is no address yet."""
    assert address_of(name) is None
