"""Checks the documents that requests bring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import BadRequestError, Violation
from engine.sdk.parameters import validate


def check(value: Any, schema: Mapping[str, Any] | None, below: str = "") -> None:
    """Refuse a document that does not fit its schema.

    Args:
        value: The document.
        schema: JSON Schema; None or empty allows anything.
        below: JSON Pointer to the document in the request's body.

    Raises:
        BadRequestError: It does not fit; each place is named.
    """
    if not schema:
        return
    violations = [Violation(below + v.path, v.message) for v in validate(value, schema)]
    if violations:
        first = "; ".join(f"{v.path or '/'}: {v.message}" for v in violations[:5])
        raise BadRequestError(first, violations)
