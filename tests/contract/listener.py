"""A real HTTP listener for an aiohttp application, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from localcloud.ports import HOST


@contextmanager
def listening(app: web.Application) -> Iterator[str]:
    """Serve `app` on a free loopback port; gives `127.0.0.1:PORT`."""
    bound = socket.create_server((HOST, 0))
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, shutdown_timeout=1)

    async def begin() -> None:
        await runner.setup()
        await web.SockSite(runner, bound).start()

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
        yield f"{HOST}:{bound.getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
