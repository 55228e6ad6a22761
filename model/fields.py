"""Reading a config dataclass from JSON: every problem found at once, nothing silently ignored."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


def read_fields(cls: type, data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Match JSON values with a dataclass's fields.

    Args:
        cls: A dataclass; lists become tuples where it says so.
        data: One JSON object.
        where: Its name in messages.

    Returns:
        The values that fit, and a sentence for each field that is unknown, missing or of the wrong type.
    """
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    problems = [f"{where}.{name} is unknown" for name in data if name not in hints]
    for field in fields(cls):
        if field.name in data:
            value = _converted(data[field.name], hints[field.name])
            if _fits(value, hints[field.name]):
                values[field.name] = value
            else:
                problems.append(
                    f"{where}.{field.name} {data[field.name]!r} is not {_name(hints[field.name])}"
                )
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append(f"{where}.{field.name} is missing")
    return values, problems


def _converted(value: Any, hint: Any) -> Any:
    tuples = [kind for kind in _kinds(hint) if get_origin(kind) is tuple]
    if isinstance(value, list) and tuples:
        return tuple(_converted(item, get_args(tuples[0])[0]) for item in value)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and float in _kinds(hint) and int not in _kinds(hint) else value


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_kind(value, kind) for kind in _kinds(hint))


def _fits_kind(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is Literal:
        return value in get_args(kind)
    if origin is tuple:
        return isinstance(value, tuple) and _fits_tuple(value, get_args(kind))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, origin or kind)


def _fits_tuple(value: tuple[Any, ...], items: tuple[Any, ...]) -> bool:
    is_long_enough = items[-1] is ... or len(value) == len(items)
    return is_long_enough and all(_fits(item, items[0]) for item in value)


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is UnionType else (hint,)


def _name(hint: Any) -> str:
    names = [
        "null"
        if kind is NoneType
        else getattr(kind, "__name__", "")
        if get_origin(kind) is None
        else str(kind)
        for kind in _kinds(hint)
    ]
    return " or ".join(names)
