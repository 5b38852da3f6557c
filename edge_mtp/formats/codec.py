"""The JSON codec: parsed JSON as the dataclass or NamedTuple that its annotations describe (by msgspec).

Unknown fields are ignored. Types are strict: text is no number, 1 is not true, and 1.0 is no whole number. `Annotated`
types carry limits; the types below suit files that anybody may have written, and none of them allows NaN.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from edge_mtp.safe_text import shown

T = TypeVar("T")

DEEPEST = 64  # nested lists and objects, with what is innermost
LARGEST = 10**18  # of a number: no time, count or size is beyond it

Real = Annotated[float, Meta(ge=-float(LARGEST), le=float(LARGEST))]
Integer = Annotated[int, Meta(ge=-LARGEST, le=LARGEST)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]  # a time or another measure that is never negative
Count = Annotated[int, Meta(ge=0, le=2**53)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]

_LONGEST = 120  # characters of a reason


class WrongError(ValueError):
    """A value does not have the form of its type. The text names the place and the reason, in one line."""


def decode(kind: type[T], value: Any) -> T:
    """`value`, parsed JSON, as `kind`. Raises WrongError."""
    try:
        return msgspec.convert(value, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise WrongError(_reason(error)) from None
    except UnicodeEncodeError:
        raise WrongError("half of a surrogate pair stands where a name is expected") from None


def check_depth(value: Any) -> None:
    """Raises WrongError for a value that is nested more than `DEEPEST` levels deep. What reads it may then recurse."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise WrongError(f"it is nested more than {DEEPEST} levels deep")
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [each for of in inner for each in of]


def _reason(error: msgspec.ValidationError) -> str:
    """msgspec's ``Expected `int`, got `str` - at `$.a[0]` `` in our form: `a[0]: expected int, got str`."""
    what, _, where = str(error).replace("`", "").rpartition(" - at ")
    if not what:  # the whole value is meant
        what, where = where, ""
    what = what[:1].lower() + what[1:]
    if len(what) > _LONGEST:
        what = f"{what[: _LONGEST - 3]}..."
    where = where.replace("$.", "").replace("$", "")
    return shown(f"{where}: {what}" if where else what)
