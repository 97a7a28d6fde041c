"""`dig` of BIND, which is not ours, against real sockets."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import subprocess

import pytest
from zone_rig import LARGE, NAME, WAIT_S, host_port, served, zone_of

from sofs.dns_wire.server import DnsServer

INSTALL_S_MAX = 90


@functools.cache
def missing() -> str:
    """Why there is no `dig`, or "". Whoever may install packages gets it installed."""
    if shutil.which("dig"):
        return ""
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        return "dig is not here (Debian: dnsutils), and only root may install it"
    options = ["-o", "DPkg::Lock::Timeout=30", "-o", "Acquire::Retries=0"]
    command = ["apt-get", *options, "install", "-y", "--no-install-recommends", "dnsutils"]
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(
            command, check=True, capture_output=True, timeout=INSTALL_S_MAX, env=environment
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"dig could not be installed: {error}"
    return "" if shutil.which("dig") else "the package dnsutils brought no dig"


@pytest.fixture(autouse=True)
def dig_is_there() -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)


async def dig(server: DnsServer, *arguments: str) -> str:
    """What `dig` prints; its status must be 0."""
    host, port = host_port(server.address)
    process = await asyncio.create_subprocess_exec(
        "dig", f"@{host}", "-p", str(port), "+time=2", "+tries=2", *arguments,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(4 * WAIT_S):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def short(server: DnsServer, *arguments: str) -> list[str]:
    return (await dig(server, "+short", *arguments)).splitlines()


async def test_dig_gets_addresses_in_turns_of_both_families() -> None:
    async with served(zone_of()) as server:
        turns = [await short(server, NAME, "A") for _ in range(3)]
        assert [turn[0] for turn in turns] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        turns = [await short(server, NAME, "AAAA") for _ in range(2)]
        assert turns == [["2001:db8::a", "2001:db8::b"], ["2001:db8::b", "2001:db8::a"]]


async def test_dig_gets_services_with_ports_and_the_zone_itself() -> None:
    async with served(zone_of()) as server:
        assert await short(server, f"_sofs._tcp.{NAME}", "SRV") == [
            f"0 1 7440 node-1.{NAME}.",
            f"0 1 7440 node-2.{NAME}.",
            f"0 1 7441 node-3.{NAME}.",
        ]
        assert await short(server, NAME, "NS") == [f"ns1.{NAME}."]
        [soa] = await short(server, NAME, "SOA")
        assert soa.startswith(f"ns1.{NAME}. hostmaster.{NAME}. 1001 ")


async def test_dig_is_told_by_whom_and_until_when_a_name_is_denied() -> None:
    async with served(zone_of()) as server:
        said = await dig(server, f"nobody.{NAME}", "A")
        assert "status: NXDOMAIN" in said
        assert "flags: qr aa rd;" in said
        assert f"{NAME}." in said.split("AUTHORITY SECTION")[1]
        assert "\tSOA\t" in said
        assert "status: NOERROR" in await dig(server, NAME, "TXT")
        assert "status: REFUSED" in await dig(server, "example.com", "A")


async def test_dig_sees_a_truncated_answer_and_comes_again_over_tcp() -> None:
    async with served(zone_of(LARGE)) as server:
        said = await dig(server, "+ignore", NAME, "AAAA")
        assert "flags: qr aa tc rd;" in said
        assert "ANSWER: 0" in said
        said = await dig(server, NAME, "AAAA")
        assert "retrying in TCP mode" in said
        assert f"ANSWER: {len(LARGE)}" in said
        assert "(TCP)" in said


async def test_dig_over_tcp_and_without_edns_gets_the_same() -> None:
    async with served(zone_of()) as server:
        plain = await short(server, "+tcp", NAME, "AAAA")
        assert sorted(await short(server, "+noedns", NAME, "AAAA")) == sorted(plain)


async def test_dig_without_a_roster_gets_servfail() -> None:
    async with served(zone_of(None)) as server:
        assert "status: SERVFAIL" in await dig(server, NAME, "A")
