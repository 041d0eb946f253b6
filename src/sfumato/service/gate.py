"""What every request for a prediction passes: the key, the limits, the time, and a client that may leave."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sfumato.service.counters import Counters
from sfumato.service.limits import Limits

GONE = 499  # the status that is counted for a client that left; nobody reads it
Work = Callable[[bytes], Awaitable[Response]]


class Gate:
    """Lets requests for predictions in.

    Args:
        limits: The limits.
        key: What clients send as ``Authorization: Bearer KEY``. Empty if none is needed.
        counters: Where requests are counted.

    Attributes:
        open: Whether the service is ready for requests. A service that ends still answers those that come.
    """

    def __init__(self, limits: Limits, key: str, counters: Counters) -> None:
        self._limits, self._key, self._counters = limits, key, counters
        self._in_progress = 0
        self.open = True

    def check_key(self, request: Request) -> None:
        """Check the key of a request.

        Raises:
            HTTPException: With the status 401, if it is another one.
        """
        given = request.headers.get("authorization", "")
        if self._key and not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
            text = "the API key is missing or wrong: send the header 'Authorization: Bearer KEY'"
            raise HTTPException(401, text, {"WWW-Authenticate": "Bearer"})

    async def __call__(self, request: Request, route: str, types: tuple[str, ...], work: Work) -> Response:
        """The answer of ``work`` to the body of a request.

        Raises:
            HTTPException: 401 for a wrong key, 408 for a slow body, 413 for a large one, 415 for a content type that
                is not one of ``types``, 429 if too many requests are in progress, 503 if the answer takes too long.
        """
        start, status = time.perf_counter(), 500
        try:
            self.check_key(request)
            _check_type(request, types)
            response = await self._admitted(request, work)
            status = response.status_code
            return response
        except HTTPException as refusal:
            status = refusal.status_code
            raise
        except ValueError:  # what the handler of the application answers with 400
            status = 400
            raise
        finally:
            self._counters.requests.labels(route, str(status)).inc()
            self._counters.seconds.labels(route).observe(time.perf_counter() - start)

    async def _admitted(self, request: Request, work: Work) -> Response:
        if self._in_progress >= self._limits.waiting:
            text = f"{self._in_progress} requests are in progress, as many as are allowed: try again later"
            raise HTTPException(429, text, {"Retry-After": "1"})
        self._in_progress += 1
        self._counters.in_progress.set(self._in_progress)
        body = None
        try:
            async with asyncio.timeout(self._limits.timeout):
                body = await self._body(request)
                return await _unless_gone(request, work(body))
        except TimeoutError as error:
            seconds = f"{self._limits.timeout:g} s"
            if body is None:
                raise HTTPException(408, f"the body of the request did not come within {seconds}") from error
            text = f"there is no answer within {seconds}: send smaller images, or try again later"
            raise HTTPException(503, text, {"Retry-After": "5"}) from error
        finally:
            self._in_progress -= 1
            self._counters.in_progress.set(self._in_progress)

    async def _body(self, request: Request) -> bytes:
        most = self._limits.request_bytes
        too_large = HTTPException(413, f"the body has more than {most} bytes: send fewer or smaller images")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > most:
            raise too_large
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise too_large
            parts.append(part)
        return b"".join(parts)


def _check_type(request: Request, types: tuple[str, ...]) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if types and given not in types:
        raise HTTPException(415, f"the content type is {given[:100]!r}, expected {' or '.join(types)}")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("", "identity"):
        raise HTTPException(415, f"the body is encoded as {encoding[:100]!r}: send it as it is")


async def _unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """The answer; none is computed for a client that has left."""
    answer = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else Response(status_code=GONE)
    finally:
        answer.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
