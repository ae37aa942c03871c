"""JSON Schemas, written short."""

from __future__ import annotations

from typing import Any


def strict_object(required: list[str], **properties: Any) -> dict[str, Any]:
    """Write the schema of an object that has no properties but these.

    Args:
        required: The names of those that must be there.
        properties: The schema of each property.

    Returns:
        The schema.
    """
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
