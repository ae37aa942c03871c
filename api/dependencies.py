"""What routes ask for by type: the engine, JSON bodies, headers."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, ValidationError

from engine.errors import (
    BadRequestError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
    Violation,
)
from engine.requests.documents import check
from engine.requests.instances import Chosen
from engine.resources import Engine

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class TimeRange:
    """What of a time is to be done again.

    Attributes:
        since: From this moment on.
        until: To just before this moment.
        status: Only what has this status.
        community: Only this community's; None: all.
    """

    since: datetime
    until: datetime
    status: str
    community: str | None


async def get_engine(request: Request) -> Engine:
    """The engine that the application opened.

    Args:
        request: The request.

    Returns:
        The engine.
    """
    # Not a plain def: that would be called in a thread of its own.
    engine: Engine = request.state.engine
    return engine


async def read_body(request: Request, most: int) -> bytes:
    """Read a request's body up to a limit.

    Args:
        request: The request.
        most: The limit in bytes.

    Returns:
        The body.

    Raises:
        PayloadTooLargeError: It is longer.
    """
    too_large = PayloadTooLargeError(f"The body is over the limit of {most} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)


async def json_object(request: Request) -> dict[str, Any]:
    """Read a request's body as a JSON object; no body is an empty one.

    Args:
        request: The request.

    Returns:
        The object.

    Raises:
        PayloadTooLargeError: It is too long.
        UnsupportedMediaTypeError: It is not declared as JSON.
        BadRequestError: It is no JSON, no object, or nested too deeply.
    """
    settings = (await get_engine(request)).settings
    body = await read_body(request, settings.request_max_bytes)
    return _as_object(request, body, settings.request_max_depth) if body.strip() else {}


async def sent_object(request: Request) -> dict[str, Any]:
    """Read a request's body as a JSON object; it has to be there.

    Args:
        request: The request.

    Returns:
        The object.

    Raises:
        PayloadTooLargeError: It is too long.
        UnsupportedMediaTypeError: It is not declared as JSON.
        BadRequestError: There is none, or it is no JSON, no object, or nested too deeply.
    """
    settings = (await get_engine(request)).settings
    body = await read_body(request, settings.request_max_bytes)
    if not body.strip():
        raise BadRequestError("The body is missing; send a JSON object, {} if it is to be empty")
    return _as_object(request, body, settings.request_max_depth)


def _as_object(request: Request, body: bytes, most_levels: int) -> dict[str, Any]:
    """The body as a JSON object."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaTypeError(
            f"The body's Content-Type is {media_type or 'missing'!r:.80}; send application/json"
        )
    try:
        value = json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRequestError("The body holds half a surrogate pair, which is no text") from None
    except RecursionError:
        raise BadRequestError(_too_deep(most_levels)) from None
    except ValueError as error:
        raise BadRequestError(f"The body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequestError("The body must be a JSON object", [Violation("", "not an object")])
    if _deeper_than(value, most_levels):
        raise BadRequestError(_too_deep(most_levels))
    return value


def body_of(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """Make the dependency that reads a request's body as a model.

    Args:
        model: The model; its violations are worded as those of all schemas.

    Returns:
        The dependency.
    """
    schema = model.model_json_schema()

    async def read(request: Request) -> Model:
        value = await json_object(request)
        check(value, schema)
        try:
            return model.model_validate(value)
        except ValidationError as error:
            # Such as a name that ends in a line break, which JSON Schema's patterns let pass.
            found = [
                Violation(_pointer(value, item["loc"]), item["msg"]) for item in error.errors()
            ]
            raise BadRequestError(f"{found[0].path}: {found[0].message}", found) from None

    return read


def _pointer(value: Any, place: Sequence[int | str]) -> str:
    """The JSON Pointer to a place that pydantic names, without the names of its alternatives."""
    pointer = ""
    for part in place:
        try:
            value = value[part]
        except (LookupError, TypeError):
            break
        pointer += f"/{part}"
    return pointer


def documented(model: type[BaseModel], example: Any) -> dict[str, Any]:
    """Describe a body that ``body_of`` reads.

    Args:
        model: The model.
        example: An example of it.

    Returns:
        What FastAPI's ``openapi_extra`` takes.
    """
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inlined(definitions[part["$ref"].rpartition("/")[2]])
        return {name: inlined(value) for name, value in part.items()}

    content = {"schema": inlined(schema), "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def time_range(body: Mapping[str, Any], statuses: Sequence[str]) -> TimeRange:
    """Read a time range from a request's body.

    Args:
        body: ``{"since", "until"?, "status"?, "community"?}``.
        statuses: The statuses that may be named; the first one is the default.

    Returns:
        The range; ``until`` is now if it was not given.

    Raises:
        BadRequestError: A moment is none, or the range runs backwards.
    """
    moment = {"type": "string", "format": "date-time"}
    schema = {
        "type": "object",
        "properties": {
            "since": moment,
            "until": moment,
            "status": {"enum": list(statuses)},
            "community": {"type": "string", "pattern": r"^[^\x00]*$"},
        },
        "required": ["since"],
        "additionalProperties": False,
    }
    check(body, schema)
    since = _moment(body, "since")
    until = _moment(body, "until") if "until" in body else datetime.now(UTC)
    if until <= since:
        message = "must be later than since"
        raise BadRequestError(f"/until: {message}", [Violation("/until", message)])
    return TimeRange(since, until, body.get("status", statuses[0]), body.get("community"))


def _moment(body: Mapping[str, Any], name: str) -> datetime:
    try:
        # RFC 3339 allows small letters, Python does not.
        return datetime.fromisoformat(body[name].upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        message = "must be a moment of the years 1 to 9999, in UTC"
        raise BadRequestError(f"/{name}: {message}", [Violation(f"/{name}", message)]) from None


def refuse_nul(request: Request) -> None:
    """Refuse what no name or id of ours holds, and PostgreSQL cannot be asked for.

    Args:
        request: The request.

    Raises:
        BadRequestError: Its path or its query holds a NUL.
    """
    if "\x00" in request.url.path or "%00" in request.url.query:
        raise BadRequestError("The URL holds a NUL (%00), which is part of no name and no id")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.20} is too large a number")
    return number


def _too_deep(most: int) -> str:
    return f"The body is nested too deeply; allowed are {most} levels"


def _deeper_than(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


EngineDependency = Annotated[Engine, Depends(get_engine)]
JsonObject = Annotated[dict[str, Any], Depends(json_object)]
SentObject = Annotated[dict[str, Any], Depends(sent_object)]
CommunityHeader = Annotated[
    str | None,
    Header(alias="X-Metagov-Community", description="Name of the community."),
]
InstanceHeader = Annotated[
    str | None,
    Header(
        alias="X-Metagov-Instance",
        description="Name of the plugin instance, where the community has several of the plugin.",
    ),
]
PlatformIdQuery = Annotated[
    str | None,
    Query(description="The platform's own id of the community, which chooses an instance as well."),
]
IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same key with the same body gives the first request's answer.",
    ),
]
CommunityFilter = Annotated[str | None, Query(description="Only this community's.")]
InstanceFilter = Annotated[
    str | None, Query(description="Only those of plugin instances of this name.")
]
Cursor = Annotated[str | None, Query(description="`next_cursor` of an earlier page.")]
Limit = Annotated[int, Query(ge=1, le=500, description="Most rows on the page.")]


@dataclass(frozen=True)
class Choice:
    """How a request's URL and headers choose a plugin instance."""

    community: CommunityHeader = None
    instance: InstanceHeader = None
    community_platform_id: PlatformIdQuery = None

    def of(self, plugin: str, in_body: Any = None) -> Chosen:
        """Choose an instance of a plugin.

        Args:
            plugin: The plugin's name.
            in_body: The body's ``community_platform_id``.

        Returns:
            The choice.

        Raises:
            BadRequestError: The body's is no text, or another than the query's.
        """
        path = "/community_platform_id"
        if in_body is not None and not isinstance(in_body, str):
            raise BadRequestError(
                f"{path}: must be a string", [Violation(path, "must be a string")]
            )
        ids = {each for each in (in_body, self.community_platform_id) if each is not None}
        if len(ids) > 1:
            message = "is another one than in the query"
            raise BadRequestError(f"{path}: {message}", [Violation(path, message)])
        return Chosen(self.community, plugin, self.instance, next(iter(ids), None))


ChoiceDependency = Annotated[Choice, Depends()]
