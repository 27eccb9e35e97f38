"""Run several scripts at the same time, with asyncio."""

import asyncio

from client import AsyncClient


async def main() -> None:
    async with AsyncClient() as bashd:
        handles = [await bashd.run(f"sleep 0.2; echo {number}") for number in range(5)]
        commands = await asyncio.gather(*(handle.wait() for handle in handles))
        print([command.status for command in commands])
        print([await handle.output() for handle in handles])


asyncio.run(main())
