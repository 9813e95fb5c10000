"""The one exception for bad input, and the nearest valid name to put into it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 10  # options that are named where there are many


class InputError(Exception):
    """Something the user gave cannot be used. The message is one line: where, what was found, what was expected.

    The command line prints the message alone and exits with code 2; any other exception is a fault of ours and keeps
    its traceback.
    """


def nearest(name: str, options: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the option most like ``name``, else the list of options, cut if long."""
    known = sorted({str(option) for option in options})
    lower = {option.lower(): option for option in reversed(known)}
    cutoff = 0.5 if len(str(name)) <= 3 else 0.6  # one wrong letter of two is still a slip
    match = [lower[m] for m in difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=cutoff)]
    if match:
        return f"; did you mean '{match[0]}'?"
    if len(known) > SHOWN + 2:
        return f"; known: {', '.join(known[:SHOWN])}, ... and {len(known) - SHOWN} more"
    return f"; known: {', '.join(known)}" if known else ""


def missing_extra(package: str, extra: str) -> InputError:
    """Return the error for an optional ``package`` that is not installed, naming the ``extra`` that brings it."""
    return InputError(f"the package '{package}' is not installed: pip install 'levelfield[{extra}]'")
