"""The inference endpoints in the OpenAPI document, which FastAPI does not serve and so does not know; pure.

What a body must look like is read off the types that it is decoded into, so that the document cannot say otherwise.
"""

from functools import cache
from http import HTTPStatus
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import msgspec
from fastapi import FastAPI

from gateway.wire import bodies
from gateway.wire.canonical import MAX_TOKEN_ID
from gateway.wire.request import Endpoint

_BODIES: Final[dict[Endpoint, type[bodies.Body]]] = {
    Endpoint.CHAT: bodies.Chat,
    Endpoint.COMPLETIONS: bodies.Completion,
    Endpoint.RESPONSES: bodies.Responses,
    Endpoint.MESSAGES: bodies.AnthropicMessages,
    Endpoint.EMBEDDINGS: bodies.Embeddings,
    Endpoint.RERANK: bodies.Rerank,
    Endpoint.TOKENIZE: bodies.Tokenize,
    Endpoint.DETOKENIZE: bodies.Body,
}
_ONE_OF: Final = {
    Endpoint.COMPLETIONS: ("prompt", "prompt_embeds"),
    Endpoint.EMBEDDINGS: ("input", "messages"),
    Endpoint.TOKENIZE: ("prompt", "messages"),
}
"""Fields of which a body must have one."""
_IDS: Final = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}}
_TEXTS: Final = {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "object"}]}}
_PROMPT: Final = {"anyOf": [{"type": "string"}, _TEXTS, _IDS, {"type": "array", "items": _IDS}, {"type": "null"}]}
_REFUSALS: Final = (400, 401, 403, 404, 408, 413, 415, 417, 422, 429, 431, 500, 501, 502, 503, 504)
_REFERENCE: Final = "#/components/schemas/{name}"


class Error(msgspec.Struct):
    """What went wrong, in OpenAI's shape; an engine's own words may say more."""

    error: dict[str, Any]


def describe(app: FastAPI) -> None:
    """Have the app's OpenAPI document tell of the inference endpoints too."""
    known = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = known()  # which keeps it
        if is_new:
            schemas, components = _schemas()
            paths = document.setdefault("paths", {})
            for endpoint, schema in schemas.items():
                paths.setdefault(str(endpoint), {})["post"] = _operation(endpoint, schema)
            document.setdefault("components", {}).setdefault("schemas", {}).update(components)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's manual has it


def _operation(endpoint: Endpoint, schema: dict[str, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if endpoint.generates:
        answers["text/event-stream"] = {"schema": {"type": "string"}}
    refusal = {"application/json": {"schema": {"$ref": _REFERENCE.format(name=Error.__name__)}}}
    statuses = {str(status): {"description": HTTPStatus(status).phrase, "content": refusal} for status in _REFUSALS}
    return {
        "summary": f"{endpoint}, served by a replica",
        "operationId": "_".join(str(endpoint).strip("/").split("/")),
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": {"description": "The engine's answer, as it came", "content": answers}, **statuses},
    }


def _schemas() -> tuple[dict[Endpoint, dict[str, Any]], dict[str, Any]]:
    """The schema of each endpoint's body, and the components that they refer to."""
    kinds = [*map(_plain, _BODIES.values()), Error]
    references, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    schemas: dict[Endpoint, dict[str, Any]] = {}
    for endpoint, reference in zip(_BODIES, references, strict=False):
        names = _ONE_OF.get(endpoint, ())
        choice = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]
        schemas[endpoint] = {"allOf": [reference], "anyOf": choice} if choice else reference
    return schemas, components


def _plain(kind: Any) -> Any:
    """A type as msgspec can describe it: what is kept as it was written may be anything."""
    if kind is msgspec.Raw:
        return Any
    if kind == bodies.Prompt:  # either texts or ids, which its type cannot say
        return Annotated[Any, msgspec.Meta(extra_json_schema=_PROMPT)]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _plain_struct(kind)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return Annotated[_plain(inner[0]), *inner[1:]]
    if origin in (Union, UnionType):
        return Union[tuple(map(_plain, inner))]  # noqa: UP007 - of as many as there are
    return origin[tuple(map(_plain, inner))] if origin in (list, dict) else kind


@cache
def _plain_struct(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for one in msgspec.structs.fields(kind):
        plain = _plain(one.type)
        optional = msgspec.field(name=one.encode_name, default=msgspec.UNSET)
        fields.append((one.name, plain) if one.required else (one.name, plain | msgspec.UnsetType, optional))
    return msgspec.defstruct(kind.__name__, fields, kw_only=True, namespace={"__doc__": kind.__doc__})
