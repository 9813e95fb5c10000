"""Turns a pydantic ValidationError into one line: where, what was found, what was expected, the nearest valid name."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from benchmark.errors import nearest


def describe(
    error: ValidationError,
    model: Any,
    where: str = "",
    locate: Callable[[tuple[Any, ...]], str] | None = None,
) -> str:
    """Return the first fault of ``error`` as one line.

    Args:
        error: what pydantic raised.
        model: the model, or union of models, that was validated.
        where: key path of the model in the experiment file.
        locate: gives ``"file:line: "`` for a location.
    """
    faults = error.errors()
    fault = faults[0]
    names, owner, keys = _walk(model, fault["loc"])
    key = ".".join(filter(None, [where, *map(str, keys)]))
    prefix = locate(fault["loc"]) if locate else ""
    found = fault.get("input")
    if fault["type"] == "extra_forbidden":
        text = f"unknown key '{keys[-1]}'{nearest(str(keys[-1]), names)}"
        key = ".".join(filter(None, [where, *map(str, keys[:-1])])) or owner
    elif fault["type"] == "missing":
        text = "required, and not there"
    elif fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
        context = fault.get("ctx", {})
        tag, expected = str(context.get("tag", "")), str(context.get("expected_tags", "")).replace("'", "").split(", ")
        name = str(context.get("discriminator", "kind")).replace("'", "")
        text = (f"unknown {name} '{tag}'" if tag else f"its {name} is not given") + nearest(tag, expected)
    elif fault["type"] == "literal_error":
        options = str(fault["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        hint = nearest(str(found), options).partition("; known")[0]
        text = f"found {found!r}, expected one of {', '.join(options)}{hint}"
    elif fault["type"] in ("too_short", "too_long"):
        few, n = fault["type"] == "too_short", int(fault["ctx"]["actual_length"] or 0)
        bound = f"at least {fault['ctx']['min_length']}" if few else f"at most {fault['ctx']['max_length']}"
        text = f"found {n} {'entry' if n == 1 else 'entries'}, expected {bound}"
    elif fault["type"] == "value_error":
        text = str(fault["ctx"]["error"])
    else:
        message = fault["msg"][0].lower() + fault["msg"][1:]
        shown = f", found {found!r}" if not isinstance(found, (dict, list, BaseModel)) else ""
        text = f"{message.replace('input should', 'should')}{shown}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{prefix}{key}: {text}{more}" if key else f"{prefix}{text}{more}"


def _walk(model: Any, loc: tuple[Any, ...]) -> tuple[list[str], str, list[Any]]:
    """Return (valid names where ``loc`` ends, name of the model there, the keys of ``loc`` without union tags)."""
    keys: list[Any] = []
    at: Any = model
    owner: Any = model
    # where a block's keys stand one higher in the file, and beside which others
    beside: tuple[int, list[str]] | None = None
    for part in loc:
        options = _options(at)
        fields = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        tagged = [o for o in fields if part in _tags(o)]
        if len(fields) > 1 and tagged:
            at = owner = tagged[0]
            continue
        if fields:
            owner = fields[0]
            if part == getattr(owner, "flattened", None):
                beside = len(keys), [f.alias or n for n, f in owner.model_fields.items()]
            keys.append(part)
            named = {f.alias or n: f.annotation for n, f in owner.model_fields.items()}
            at = named.get(str(part))
            continue
        keys.append(part)
        inner = [get_args(o)[-1 if get_origin(o) is dict else 0] for o in options if get_args(o)]
        at = inner[0] if inner else None
    known = isinstance(owner, type) and issubclass(owner, BaseModel)
    names = [f.alias or n for n, f in owner.model_fields.items()] if known else []
    if beside is not None and len(keys) > beside[0] + 1:
        del keys[beside[0]]
        names += beside[1] if len(keys) == beside[0] + 1 else []
    return names, getattr(owner, "__name__", ""), keys


def _options(annotation: Any) -> list[Any]:
    """Return the members of a (possibly annotated, optional or union) type."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [o for a in get_args(annotation) if a is not type(None) for o in _options(a)]
    return [annotation]


def _tags(model: type[BaseModel]) -> set[Any]:
    """Return the literal values by which a union may pick this model."""
    return {v for f in model.model_fields.values() for v in get_args(f.annotation) if isinstance(v, str)}
