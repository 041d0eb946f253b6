"""The forms of requests and answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sfumato.service.uploads import FORM, JSON

BYTES = "application/octet-stream"


class Problem(BaseModel):
    """Why a request is refused."""

    error: str


class Map(BaseModel):
    """A picture of one quantity: ``value = offset + scale × pixel`` in ``unit``. Labels are class ids as they are."""

    model_config = ConfigDict(extra="allow")
    quantity: str
    png: str = Field(description="base64 of a PNG with 8 or 16 bits")
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0


class TaskAnswer(BaseModel):
    """The prediction of one task: maps, or values where there is one for each image."""

    summary: dict[str, Any]
    maps: dict[str, Map] = {}
    values: dict[str, Any] = {}


class ImageAnswer(BaseModel):
    """The predictions for one image."""

    height: int
    width: int
    tasks: dict[str, TaskAnswer]


class Answer(BaseModel):
    """The predictions for all images of a request, in their order."""

    model: str
    version: str
    predictions: list[ImageAnswer]


class Tensor(BaseModel):
    """An input or an output of the model."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What the model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    batch: int


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class Ready(BaseModel):
    """Whether the model answers."""

    name: str
    ready: bool


class Live(BaseModel):
    """Whether the server runs, or answers."""

    live: bool = True


class InferAnswer(BaseModel):
    """The outputs of the model."""

    model_config = ConfigDict(extra="allow")
    model_name: str
    model_version: str
    outputs: list[dict[str, Any]]


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The statuses with which a route refuses requests."""
    return {code: {"model": Problem} for code in codes}


def upload(names: tuple[str, ...]) -> dict[str, Any]:
    """The body of ``/predict`` for a model with these inputs."""
    base64 = {"type": "string", "contentEncoding": "base64"}
    sample = {"type": "object", "required": list(names), "properties": dict.fromkeys(names, base64),
              "additionalProperties": False}  # fmt: skip
    files = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
    entries = {"inputs": {"type": "array", "minItems": 1, "items": sample}}
    forms: dict[str, Any] = {
        FORM: {"schema": {"type": "object", "required": list(names), "properties": dict.fromkeys(names, files)}},
        JSON: {"schema": {"type": "object", "required": ["inputs"], "properties": entries,
                          "additionalProperties": False}},
    }  # fmt: skip
    return {"requestBody": {"required": True, "content": forms}}


def infer() -> dict[str, Any]:
    """The body of an inference request."""
    tensor = {
        "type": "object", "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"}, "shape": {"type": "array", "items": {"type": "integer"}},
            "datatype": {"type": "string"}, "parameters": {"type": "object"}, "data": {"type": "array"},
        },
    }  # fmt: skip
    body = {
        "type": "object", "required": ["inputs"],
        "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "minItems": 1, "items": tensor}},
    }  # fmt: skip
    content: dict[str, Any] = {JSON: {"schema": body}, BYTES: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}
