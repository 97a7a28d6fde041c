"""A server in a process of its own, for tests that kill and freeze it: answers pings."""

from __future__ import annotations

import asyncio

from rpc_loopback import Loopback


async def main() -> None:
    loopback = Loopback()
    listener = await loopback.listen(loopback.echo)
    print(listener.address, flush=True)
    await asyncio.get_running_loop().create_future()


asyncio.run(main())
