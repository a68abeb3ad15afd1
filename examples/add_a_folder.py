"""Stream a folder of pictures into a running service, with progress; a second run sends only what is new or changed.

    python examples/add_a_folder.py photos/ [--url http://127.0.0.1:8000] [--api-key KEY]

The async client; the blocking one has the same methods. Files are read as they are sent, in requests of at most 32 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from structxlip.client import AsyncClient, Progress


async def main(client: AsyncClient, folder: Path) -> int:
    """Add the folder's pictures; return how many failed."""
    num_failed = 0
    await client.wait_until_ready()
    async for result in client.add_folder(folder, num_workers=3, on_progress=show):
        if result.problem is not None:
            num_failed += 1
            print(f"{result.picture!s}: {result.problem.detail}")
    return num_failed


def show(progress: Progress) -> None:
    """Print how far it is."""
    counts = ", ".join(f"{number} {status}" for status, number in progress.num_by_status.items())
    print(f"{progress.num_done} of {progress.num_total}: {counts}")


async def run() -> int:
    """Read the arguments and add the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key")
    arguments = parser.parse_args()
    async with AsyncClient(arguments.url, api_key=arguments.api_key) as client:
        return await main(client, arguments.folder)


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(run()) else 0)
