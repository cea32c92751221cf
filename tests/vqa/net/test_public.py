"""Which addresses count as public, in all the forms that an address may have."""

import pytest

from vqa.net.public import is_public


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2001:4860:4860::8888"),
        # forms that contain a public IPv4 address: mapped, NAT64, 6to4
        *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"),
    ],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.10", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
        # link-local: metadata of cloud machines; shared address space: Alibaba's
        *("169.254.169.254", "100.64.0.1", "100.100.100.200"),
        # Oracle's metadata, Azure's WireServer
        *("192.0.0.192", "168.63.129.16"),
        *("192.0.2.1", "198.51.100.7", "203.0.113.9", "198.18.0.1", "192.88.99.1"),
        *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"),
        *("100::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1"),
    ],
)
def test_an_address_of_a_machine_or_a_network_of_its_own_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:168.63.129.16", "::ffff:169.254.169.254"),
        # withdrawn: IPv4-compatible
        *("::127.0.0.1", "::8.8.8.8"),
        # NAT64, and its range for local use
        *("64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::8.8.8.8"),
        # 6to4 of 127.0.0.1 and 192.168.0.1, Teredo of a public server and client 127.0.0.1
        *("2002:7f00:1::1", "2002:c0a8:1::1", "2001:0:808:808::80ff:fffe"),
        # ISATAP in somebody's global prefix
        *("2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:127.0.0.1"),
    ],
)
def test_no_form_of_a_private_address_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "8.8.8", "0x7f.1", "2130706433", "8.8.8.8:80", "[::1]", "8.8.8.8 "])
def test_what_is_no_address_is_not_public(text: str) -> None:
    assert not is_public(text)
