"""State: what a plugin instance or a process remembers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

from engine.errors import is_storable
from engine.sdk.values import StateValueError, decode, encode

LONGEST_KEY = 255
# Characters of JSON: state is read whole before each call.
LARGEST_VALUE = 1_000_000


class _Removed(Enum):
    """Stands for a value that was removed; one and the same in every process."""

    REMOVED = "removed"


_MISSING = _Removed.REMOVED


@dataclasses.dataclass(frozen=True)
class StateChanges:
    """What one call did to a state, as it is stored.

    Attributes:
        values: Encoded values by key, None where one was removed.
        increments: What is added to numbers, whatever they have become meanwhile.
        expected: Encoded values, None for no value, that keys must still have.
    """

    values: dict[str, str | None]
    increments: dict[str, float]
    expected: dict[str, str | None]

    def __bool__(self) -> bool:
        """Whether there is anything to store."""
        return bool(self.values or self.increments)


class State:
    """Values by key, as one call sees them; what it changed is stored when it has succeeded.

    Calls at the same moment may write different keys without losing a write; of writes to one key
    the last one stays. ``increment`` and ``compare_and_set`` are for those who need more.

    Args:
        initial: Encoded values by key.
        allowed: Whether classes of a module may be built.
    """

    def __init__(self, initial: Mapping[str, str], allowed: Callable[[str], bool]) -> None:
        self._initial = dict(initial)
        self._allowed = allowed
        self._values: dict[str, Any] = {}
        self._set: set[str] = set()
        self._increments: dict[str, float] = {}
        self._expected: dict[str, str | None] = {}

    def kept(self) -> dict[str, Any]:
        """All of it that can be sent to another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_allowed"}

    def take_over(self, kept: dict[str, Any]) -> None:
        """Become as the state of a call in another process is.

        Args:
            kept: What ``kept`` gave there.
        """
        self.__dict__.update(kept)

    def get(self, key: str, default: Any = None) -> Any:
        """Read a value.

        Args:
            key: Its key.
            default: What to give if there is none.

        Returns:
            The value; changing it in place changes the state.
        """
        if key not in self._values:
            if key not in self._initial:
                return default
            self._values[key] = decode(self._initial[key], self._allowed)
        value = self._values[key]
        return default if value is _MISSING else value

    def set(self, key: str, value: Any) -> None:
        """Write a value.

        Args:
            key: Its key, 1 to 255 characters.
            value: The value.

        Raises:
            StateValueError: State cannot keep the value, or it is larger than a million characters.
            ValueError: The key is no such text.
        """
        _check_key(key)
        _check_size(key, encode(value, self._allowed))
        self._wrote(key, value)

    def increment(self, key: str, by: float = 1) -> float:
        """Add to a number, so that of increments at the same moment none is lost.

        Args:
            key: Its key; one that has no value counts from 0.
            by: What is added; may be negative.

        Returns:
            The sum as this call sees it; what is stored counts other calls' increments too.

        Raises:
            StateValueError: The key holds no number, or ``by`` is none.
            ValueError: The key is no text of 1 to 255 characters.
        """
        _check_key(key)
        now = self.get(key, 0)
        if not _is_number(now) or not _is_number(by):
            raise StateValueError(f"increment wants numbers: '{key:.80}' is {now!r:.80}, by {by!r}")
        total: float = now + by
        if key not in self._set:
            self._increments[key] = self._increments.get(key, 0) + by
        self._values[key] = total
        return total

    def compare_and_set(self, key: str, expected: Any, new: Any) -> bool:
        """Write a value if the key has the one expected, now and still when it is stored.

        If another call changed the key meanwhile nothing of this call is stored: receivers, tasks,
        a process' methods and actions declared ``idempotent`` are called again, other actions and
        ``start`` end with the error ``state_conflict``.

        Args:
            key: Its key.
            expected: What it must hold; None also for no value.
            new: What it shall hold; None removes it.

        Returns:
            Whether the key had that value when this call began, so that it was set.

        Raises:
            StateValueError: State cannot keep the value.
            ValueError: The key is no text of 1 to 255 characters.
        """
        _check_key(key)
        if self.get(key) != expected:
            return False
        self._expected.setdefault(key, self._initial.get(key))
        if new is None:
            self.remove(key)
        else:
            self.set(key, new)
        return True

    def remove(self, key: str) -> None:
        """Remove a value, if it is there.

        Args:
            key: Its key.
        """
        self._wrote(key, _MISSING)

    def _wrote(self, key: str, value: Any) -> None:
        self._values[key] = value
        self._set.add(key)
        self._increments.pop(key, None)

    def keys(self) -> list[str]:
        """The keys that there are."""
        return list(self)

    def __contains__(self, key: object) -> bool:
        """Whether there is a value."""
        if key in self._values:
            return self._values[str(key)] is not _MISSING
        return key in self._initial

    def __iter__(self) -> Iterator[str]:
        """Go through the keys."""
        every = dict.fromkeys([*self._initial, *self._values])
        return (key for key in every if key in self)

    def changes(self) -> StateChanges:
        """What is to be stored."""
        values = {k: v for k, v in self.written().items() if k not in self._increments}
        return StateChanges(values, dict(self._increments), dict(self._expected))

    def written(self) -> dict[str, str | None]:
        """Encoded values by key as this call leaves them, None where one was removed.

        Raises:
            StateValueError: A value that was changed in place cannot be kept, or is too large.
        """
        changed: dict[str, str | None] = {}
        for key, value in self._values.items():
            now = None if value is _MISSING else encode(value, self._allowed)
            if now != self._initial.get(key):
                _check_size(key, now or "")
                changed[key] = now
        return changed


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY or not is_storable(key):
        raise ValueError(f"a key of state is a text of 1 to {LONGEST_KEY} characters")


def _check_size(key: str, encoded: str) -> None:
    if len(encoded) > LARGEST_VALUE:
        raise StateValueError(
            f"the value of '{key:.80}' is {len(encoded)} characters of JSON; allowed are "
            f"{LARGEST_VALUE}"
        )


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))
