"""Dynamic batching: samples of requests that wait at the same time are predicted together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sfumato.predictions import AnyPrediction
from sfumato.serving.batches import Batches, Ready


@dataclass(frozen=True, eq=False)
class Waiting:
    """A sample that waits.

    Args:
        sample: The sample.
        answer: Where its prediction is put. If nobody waits for it any more, it is cancelled.
        since: When it came, seconds of the clock of the event loop.
    """

    sample: Ready
    answer: asyncio.Future[AnyPrediction]
    since: float


class Batcher:
    """Predicts one batch at a time in a thread of its own.

    The oldest sample goes next, with others of the same padded size. It waits for more of them for at most ``wait``
    seconds. Where batches bring nothing, because they hold one sample, it does not wait.

    Args:
        batches: What predicts.
        wait: Longest wait for others, seconds.
        observe: Called with the number of samples of each batch.
    """

    def __init__(self, batches: Batches, wait: float, observe: Callable[[int], object]) -> None:
        self._batches, self._wait, self._observe = batches, wait, observe
        self._queue: list[Waiting] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "predict")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to predict. An event loop must run."""
        self._task = asyncio.get_running_loop().create_task(self._predict_forever())

    async def stop(self) -> None:
        """Stop, after the batch that is being predicted."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()

    async def __call__(self, sample: Ready) -> AnyPrediction:
        """The prediction of a sample at the size that the network sees."""
        loop = asyncio.get_running_loop()
        waiting = Waiting(sample, loop.create_future(), loop.time())
        self._queue.append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def _predict_forever(self) -> None:
        while True:
            batch = await self._next()
            self._observe(len(batch))
            await self._answer(batch)

    async def _next(self) -> list[Waiting]:
        """The next batch, once it is full or the oldest sample has waited long enough."""
        clock = asyncio.get_running_loop().time
        while True:
            self._arrived.clear()
            self._queue = [each for each in self._queue if not each.answer.done()]
            if not self._queue:
                await self._arrived.wait()
                continue
            oldest = self._queue[0]
            room = self._batches.room(oldest.sample.key)
            batch = [each for each in self._queue if each.sample.key == oldest.sample.key][:room]
            left = oldest.since + self._wait - clock()
            if len(batch) == room or left <= 0:
                self._queue = [each for each in self._queue if each not in batch]
                return batch
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                continue

    async def _answer(self, batch: list[Waiting]) -> None:
        """Predict a batch. If that fails, predict each sample alone, so that none suffers from another."""
        samples: list[Any] = [each.sample for each in batch]
        predict = self._batches.predict
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, predict, samples)
        except Exception as error:
            if len(batch) > 1:
                for each in batch:
                    await self._answer([each])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for each, prediction in zip(batch, found, strict=True):
            if not each.answer.done():
                each.answer.set_result(prediction)
