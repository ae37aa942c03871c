"""Schemas, written short."""

from __future__ import annotations

import jsonschema
import pytest

from engine.plugins import strict_object

SCHEMA = strict_object(["value"], value={"type": "number"}, note={"type": "string"})


def test_a_strict_object_takes_what_it_names() -> None:
    jsonschema.validate({"value": 5}, SCHEMA)
    jsonschema.validate({"value": 5, "note": "five"}, SCHEMA)


@pytest.mark.parametrize("wrong", [{}, {"value": "5"}, {"value": 5, "nota": "five"}, 5])
def test_a_strict_object_takes_nothing_else(wrong: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)
