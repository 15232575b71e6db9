"""Which addresses are refused unless a client's config allows them: link-local ones, and clouds' metadata."""

import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = frozenset(
    ipaddress.ip_address(address).packed
    for address in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192")
)
"""Where clouds keep their metadata, beside 169.254.0.0/16: AWS, Google, Alibaba, Oracle."""

_CARRIERS = (bytes(12), bytes.fromhex("0064ff9b") + bytes(8), bytes.fromhex("0064ff9b0001") + bytes(6))
"""IPv6 prefixes before an IPv4 address: IPv4-compatible (RFC 4291 §2.5.5.1), NAT64 (RFC 6052 §2.1) and a site's own
NAT64 (RFC 8215)."""


def address_of(host: str) -> Address | None:
    """The address that `host` is, in whatever notation the resolver reads; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1, 2130706433, 0x7f000001
        except OSError:
            return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def why_refused(address: Address) -> str | None:
    """What the address is, if it is refused: "a link-local address", "a cloud's metadata"."""
    if isinstance(address, ipaddress.IPv6Address) and (carried := _carried(address)) is not None:
        return why_refused(carried)
    if address.is_link_local:
        return "a link-local address"
    return "a cloud's metadata" if address.packed in _METADATA else None


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a translator or a tunnel on the way makes of it."""
    if address.packed[:12] in _CARRIERS:
        return ipaddress.IPv4Address(address.packed[12:])
    return address.ipv4_mapped or address.sixtofour
