"""How a method of a plugin takes its parameters: whole, by name, or not at all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from engine.sdk.parameters import Parameters

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_FIRST = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def arguments_for(
    method: Callable[..., Any], parameters: Parameters, schema: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arrange parameters as a bound method wants them.

    ``m(self)`` gets nothing, ``m(self, parameters)`` all of them as one object, and any other
    signature (``m(self, title, options=None)``) each by its name; a dash in a property's name
    stands as an underscore in the argument's.

    Args:
        method: The bound method.
        parameters: The validated parameters, defaults filled in.
        schema: The method's input schema, if it has one.

    Returns:
        Positional and keyword arguments.
    """
    wanted = list(inspect.signature(method).parameters.values())
    if not wanted:
        return (), {}
    if takes_whole_object(wanted, schema):
        return (parameters,), {}
    by_argument = {key.replace("-", "_"): value for key, value in parameters.items()}
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in wanted):
        return (), by_argument
    named = {item.name for item in wanted if item.kind in _NAMED}
    arguments = {key: value for key, value in by_argument.items() if key in named}
    for item in wanted:
        # A property that was not sent is None, as it is by attribute on the whole object.
        if item.name in named and item.default is inspect.Parameter.empty:
            arguments.setdefault(item.name, None)
    return (), arguments


def takes_whole_object(wanted: list[inspect.Parameter], schema: Mapping[str, Any] | None) -> bool:
    """Whether a signature (without ``self``) takes the parameters as one object.

    Args:
        wanted: The signature's parameters.
        schema: The method's input schema, if it has one.

    Returns:
        True for an argument called ``parameters``, or one called like no property, if it is the
        first of all and the only one that is required.
    """
    if not wanted or wanted[0].kind not in _FIRST or any(_is_required(w) for w in wanted[1:]):
        return False
    first = wanted[0]
    if first.name == "parameters":
        return True
    properties = {key.replace("-", "_") for key in (schema or {}).get("properties", {})}
    return _is_required(first) and not properties & {w.name for w in wanted}


def signature_problem(function: Callable[..., Any], schema: Mapping[str, Any] | None) -> str | None:
    """Say what is wrong with a method's signature, for use while it is registered.

    Args:
        function: The function as it stands in the class, ``self`` first.
        schema: Its input schema, if it has one.

    Returns:
        A sentence, or None if the signature works.
    """
    wanted = list(inspect.signature(function).parameters.values())
    if not wanted:
        return "takes no `self`: write it as a method"
    wanted = wanted[1:]
    if not schema and takes_whole_object(wanted, schema) and wanted[0].name != "parameters":
        return (
            f"takes the argument {wanted[0].name}, but has no input_schema: call it `parameters` "
            f"to take them all, or name the property {wanted[0].name} in an input_schema"
        )
    if not wanted or takes_whole_object(wanted, schema):
        return None
    properties = {key.replace("-", "_") for key in (schema or {}).get("properties", {})}
    if not properties:
        return None
    unknown = [
        item.name
        for item in wanted
        if item.kind in _NAMED
        and item.default is inspect.Parameter.empty
        and item.name not in properties
    ]
    if unknown:
        return (
            f"takes the arguments {', '.join(unknown)}, which its input_schema does not know "
            f"(properties: {', '.join(sorted(properties))}): name them alike, "
            "or take one argument `parameters`"
        )
    return None


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many positional arguments, ``self`` included.

    Args:
        function: The function as it stands in the class.
        count: How many arguments the engine gives.
    """
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True


def _is_required(item: inspect.Parameter) -> bool:
    return item.kind in (*_FIRST, inspect.Parameter.KEYWORD_ONLY) and (
        item.default is inspect.Parameter.empty
    )
