"""The routes of the service."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

import sfumato
from sfumato.errors import ConfigError, DataError
from sfumato.sections import one_line
from sfumato.service import schema, v2
from sfumato.service.answers import answer
from sfumato.service.batcher import Batcher
from sfumato.service.counters import Counters
from sfumato.service.gate import Gate
from sfumato.service.model import SIDES, Model
from sfumato.service.uploads import FORM, JSON, files_of
from sfumato.serving.batches import Ready, arrays_of

T = TypeVar("T")
MODEL = re.compile(r"(?<=/\*MODEL\*/)\{.*?\}(?=;)")
POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
REFUSED = (400, 401, 408, 413, 415, 429, 503)


class Service:
    """What the routes share.

    Args:
        model: The model.
        key: The API key. Empty if none is needed.
    """

    def __init__(self, model: Model, key: str) -> None:
        self.model = model
        self.counters = Counters(model.name, model.version)
        self.gate = Gate(model.limits, key, self.counters)
        self.batcher = Batcher(model.batches, model.limits.wait, self.counters.batch.observe)
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "pictures")

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Predict while the application runs."""
        self.batcher.start()
        yield
        await self.batcher.stop()
        self._pool.shutdown(cancel_futures=True)

    async def away(self, work: Callable[[], T]) -> T:
        """The result of work in another thread, so that the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def predict(self, body: bytes, content_type: str, probabilities: bool) -> Response:
        """The answer to images."""
        model = self.model

        def decode() -> list[Ready]:
            uploaded = files_of(body, content_type, model.inputs, model.limits.images)
            samples = [model.of_files(each, f"sample {place}") for place, each in enumerate(uploaded, 1)]
            _check_pixels(samples, model)
            return samples

        samples = await self.away(decode)
        found = await asyncio.gather(*map(self.batcher, samples))

        def encode() -> bytes:
            answers = [
                answer(model, sample, model.finish(sample, each), probabilities)
                for sample, each in zip(samples, found, strict=True)
            ]
            about = {"model": model.name, "version": model.version, "predictions": answers}
            return json.dumps(about, allow_nan=False).encode()

        return Response(await self.away(encode), media_type=JSON)

    async def infer(self, body: bytes, header: str | None) -> Response:
        """The answer to arrays."""
        model, limits = self.model, self.model.limits

        def decode() -> tuple[v2.Asked, list[Ready]]:
            asked = v2.read(body, header, model.kinds, limits.images, limits.pixels)
            return asked, model.of_arrays(asked.arrays)

        asked, samples = await self.away(decode)
        found = await asyncio.gather(*map(self.batcher, samples))

        def encode() -> tuple[bytes, int | None]:
            rows = [arrays_of(model.finish(*pair)) for pair in zip(samples, found, strict=True)]
            together = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
            return v2.write(asked, together, model.name, model.version)

        content, length = await self.away(encode)
        if length is None:
            return Response(content, media_type=JSON)
        return Response(content, media_type=schema.BYTES, headers={v2.HEADER: str(length)})


def _check_pixels(samples: list[Ready], model: Model) -> None:
    most = model.limits.pixels
    found = sum(each.scaling.original[0] * each.scaling.original[1] * len(model.inputs) for each in samples)
    if found > most:
        raise DataError(f"the images have {found} pixels together, more than {most}: send fewer, or smaller ones")


def application(model: Model, key: str = "") -> FastAPI:
    """The HTTP application of a model.

    Args:
        model: The model, warmed up.
        key: What clients send as ``Authorization: Bearer KEY``. Default: no key is needed.
    """
    service = Service(model, key)
    app = FastAPI(
        title="sfumato", version=sfumato.__version__, lifespan=service.running, docs_url=None, redoc_url=None,
        summary="Uncertainty in dense prediction", exception_handlers=HANDLERS,
    )  # fmt: skip
    app.state.gate = service.gate
    _predict_routes(app, service)
    _model_routes(app, service)
    _health_routes(app, service)
    return app


def _predict_routes(app: FastAPI, service: Service) -> None:
    text = files("sfumato.service").joinpath("page.html").read_text(encoding="utf-8")
    about = {"name": service.model.name, "version": service.model.version, "inputs": service.model.inputs}
    page = MODEL.sub(lambda _: json.dumps(about).replace("<", "\\u003c"), text, count=1)

    @app.get("/", response_class=HTMLResponse, summary="A page to try the model")
    async def root() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    answers = {200: {"model": schema.Answer}, **schema.problems(*REFUSED)}
    body = schema.upload(service.model.inputs)

    @app.post("/predict", summary="Predict images", responses=answers, openapi_extra=body)
    async def predict(request: Request, probabilities: bool = False) -> Response:
        content_type = request.headers.get("content-type", "")
        work = lambda body: service.predict(body, content_type, probabilities)
        return await service.gate(request, "/predict", (FORM, JSON), work)


def _model_routes(app: FastAPI, service: Service) -> None:
    model = service.model

    async def metadata(request: Request) -> Any:
        service.gate.check_key(request)
        return {
            "name": model.name,
            "versions": [model.version],
            "platform": "sfumato",
            "inputs": v2.inputs(model.kinds),
            "outputs": v2.tensors(arrays_of(model.example), SIDES),
            "batch": model.batches.most,
        }

    async def ready() -> Any:
        return {"name": model.name, "ready": True}

    async def infer(request: Request) -> Response:
        header = request.headers.get(v2.HEADER)
        return await service.gate(request, "/infer", (), lambda body: service.infer(body, header))

    answers = {200: {"model": schema.InferAnswer, "content": {schema.BYTES: {}}}, **schema.problems(*REFUSED)}
    whole = f"/v2/models/{model.name}"
    for path, tag in ((whole, ""), (f"{whole}/versions/{model.version}", ", by version")):
        app.get(path, response_model=schema.ModelMetadata, summary=f"Inputs and outputs{tag}",
                responses=schema.problems(401))(metadata)  # fmt: skip
        app.get(f"{path}/ready", response_model=schema.Ready, summary=f"Whether the model answers{tag}")(ready)
        app.post(f"{path}/infer", summary=f"Predict arrays{tag}", openapi_extra=schema.infer(), responses=answers)(
            infer
        )


def _health_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v2", response_model=schema.ServerMetadata, summary="What the server is")
    async def server() -> Any:
        return {"name": "sfumato", "version": sfumato.__version__, "extensions": ["binary_tensor_data"]}

    @app.get("/v2/health/live", response_model=schema.Live, summary="Whether the server runs")
    async def live() -> Any:
        return {"live": True}

    @app.get("/v2/health/ready", response_model=schema.Live, responses=schema.problems(503),
             summary="Whether the server answers")  # fmt: skip
    async def ready() -> Any:
        if not service.gate.open:
            raise HTTPException(503, "the server ends: send requests to another one")
        return {"live": True}

    counts = {200: {"content": {"text/plain": {}}}, **schema.problems(401)}

    @app.get("/metrics", response_class=Response, responses=counts, summary="Counts for Prometheus")
    async def metrics(request: Request) -> Response:
        service.gate.check_key(request)
        return Response(service.counters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    text = str(error.detail)
    if text == "Not Found":
        text = f"there is nothing at {request.url.path[:200]}: see /openapi.json"
    return _problem(error.status_code, text, error.headers)


async def _unusable(request: Request, error: Exception) -> JSONResponse:
    return _problem(400, one_line(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _problem(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")


async def _fault(request: Request, error: Exception) -> JSONResponse:
    return _problem(500, f"the service failed ({type(error).__name__}): its log says more")


def _problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": " ".join(text.split())}, status, dict(headers or {}))


HANDLERS: dict[Any, Any] = {
    HTTPException: _http, RequestValidationError: _invalid, DataError: _unusable, ConfigError: _unusable,
    Exception: _fault,
}  # fmt: skip
