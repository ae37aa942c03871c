"""VotingStandard: the parameters that most votes have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, ClassVar


class VotingStandard:
    """Names and schemas of the usual parameters of a vote.

    Attributes:
        INPUT_PARAMETERS: JSON Schema of each.
    """

    INPUT_PARAMETERS: ClassVar[Mapping[str, Any]] = {
        "title": {"type": "string"},
        "options": {"type": "array", "items": {"type": "string"}},
        "details": {"type": "string"},
        "closing_at": {"type": "string", "format": "date"},
    }

    @staticmethod
    def create_input_schema(
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        extra_properties: Mapping[str, Any] | None = None,
        required: Iterable[str] | None = None,
    ) -> dict[str, Any]:
        """Make an input schema of the usual parameters.

        Args:
            include: Only these; default: all.
            exclude: Not these.
            extra_properties: Further properties, or others for some of the usual ones.
            required: Which of them must be sent.

        Returns:
            A JSON Schema of its own.

        Raises:
            KeyError: ``include`` names none of the usual parameters.
        """
        names = list(include or VotingStandard.INPUT_PARAMETERS)
        left_out = set(exclude or ())
        properties = {
            name: deepcopy(VotingStandard.INPUT_PARAMETERS[name])
            for name in names
            if name not in left_out
        }
        properties.update(deepcopy(dict(extra_properties or {})))
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if required:
            schema["required"] = [name for name in required if name in properties]
        return schema
