"""How many kills there were, for those who wait for so many."""

from __future__ import annotations

import asyncio


class Progress:
    def __init__(self) -> None:
        self._count = 0
        self._news = asyncio.Event()

    def advance(self) -> None:
        self._count += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def reached(self, count: int) -> None:
        while self._count < count:
            await self._news.wait()
