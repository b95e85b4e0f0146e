"""The startup probe: decides when a new instance may be sent requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp

from localcloud.ports import HOST

_CONNECT_AGAIN_S = 0.05


@dataclass(frozen=True)
class StartupProbe:
    """The probe's numbers in seconds; `path` None probes the TCP port."""

    path: str | None
    headers: tuple[tuple[str, str], ...]
    initial_delay_s: int
    timeout_s: int
    period_s: int
    failure_threshold: int

    async def passes(self, session: aiohttp.ClientSession, port: int) -> str | None:
        """Probe until success; return None, or why the last of the allowed failures failed."""
        await asyncio.sleep(self.initial_delay_s)
        why = ""
        for attempt in range(self.failure_threshold):
            began = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(self.timeout_s):
                    why = await self._attempt(session, port)
            except TimeoutError:
                why = f"no answer within {self.timeout_s} s"
            if not why:
                return None
            left_s = began + self.period_s - asyncio.get_running_loop().time()
            if attempt + 1 < self.failure_threshold:
                await asyncio.sleep(max(0.0, left_s))
        return why

    async def _attempt(self, session: aiohttp.ClientSession, port: int) -> str:
        return await (_connects(port) if self.path is None else self._answers(session, port))

    async def _answers(self, session: aiohttp.ClientSession, port: int) -> str:
        try:
            async with session.get(
                f"http://{HOST}:{port}{self.path}",
                headers=dict(self.headers),
                allow_redirects=False,
            ) as response:
                body = (await response.content.read(500)).decode(errors="replace")
                if 200 <= response.status < 400:
                    return ""
                return f"GET {self.path} answered {response.status}: {body}"
        except (aiohttp.ClientError, OSError) as error:
            return f"GET {self.path}: {error}"


async def _connects(port: int) -> str:
    """Wait for the port to be open, for as long as the attempt's timeout lets it."""
    while True:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(_CONNECT_AGAIN_S)
            continue
        writer.close()
        return ""


def startup_probe(probe: Any) -> StartupProbe:
    """Return the probe of a completed template's container."""
    over_http = probe.HasField("http_get")
    return StartupProbe(
        path=probe.http_get.path if over_http else None,
        headers=tuple((h.name, h.value) for h in probe.http_get.http_headers),
        initial_delay_s=probe.initial_delay_seconds,
        timeout_s=probe.timeout_seconds,
        period_s=probe.period_seconds,
        failure_threshold=probe.failure_threshold,
    )
