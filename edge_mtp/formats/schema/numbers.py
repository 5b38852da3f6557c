"""Sets of numbers (intervals, multiples, integers or not) and the texts of their members."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from edge_mtp.formats.schema.language import Language, TooLargeError

DIGITS = 40  # before the point of a number without limits; the strict parser of tool calls accepts 1000
_EXACT = 15  # significant digits that a double keeps: different numbers of this length stay different when read
_FRACTION = 6  # digits after the point of a number with limits; together with the digits before it they fit a double
_MOST_REST = 400  # largest remainder that an automaton tracks
_WIDE = 18  # digits of a limit beyond which no limit matters
_FEW_RESTS = 20
_MULTIPLES = 16  # multiples that are listed if a divisor is larger

# An option is written `(x|)`: in `(x)?`, xgrammar 0.2.8 applies the `?` only to a loop at the end of the group.
# Exponents are limited so that the number stays finite.
_REAL = (
    rf"-?((0|[1-9][0-9]{{0,{DIGITS - 1}}})(\.[0-9]+|)([eE](-[0-9]+|\+?[0-9]{{1,2}})|)"
    r"|[0-9](\.[0-9]+|)[eE]\+?([12][0-9][0-9]|30[0-7]))"
)

Number = int | float


@dataclass(frozen=True)
class Numbers:
    """A conjunction of conditions on a number.

    `low` and `high` are limits, each with whether it is excluded. `whole`: members are integers (True) or not (False).
    `divisors`: members are multiples of the number (True) or not (False). `without` are excluded numbers.
    """

    low: tuple[Fraction, bool] | None = None
    high: tuple[Fraction, bool] | None = None
    whole: bool | None = None
    divisors: tuple[tuple[Fraction, bool], ...] = ()
    without: frozenset[Fraction] = frozenset()
    empty: bool = False

    def at_least(self, limit: Fraction, excluded: bool) -> Numbers:
        new = (limit, excluded)
        if self.low is not None and (self.low[0], self.low[1]) > new:
            return self
        return replace(self, low=new)

    def at_most(self, limit: Fraction, excluded: bool) -> Numbers:
        new = (limit, excluded)
        if self.high is not None and (self.high[0], not self.high[1]) < (limit, not excluded):
            return self
        return replace(self, high=new)

    def integers(self, wanted: bool) -> Numbers:
        if self.whole is not None and self.whole != wanted:
            return replace(self, empty=True)
        return replace(self, whole=wanted)

    def multiples(self, of: Fraction, wanted: bool) -> Numbers:
        return replace(self, divisors=(*self.divisors, (of, wanted)))

    def __contains__(self, value: Fraction) -> bool:
        if self.empty or value in self.without:
            return False
        if self.low is not None and (value < self.low[0] or (self.low[1] and value == self.low[0])):
            return False
        if self.high is not None and (value > self.high[0] or (self.high[1] and value == self.high[0])):
            return False
        if self.whole is not None and (value.denominator == 1) != self.whole:
            return False
        return all(((value / of).denominator == 1) == wanted for of, wanted in self.divisors)

    # -- texts

    def texts(self) -> str | Language | list[str] | None:
        """The members' texts: a regular expression for the engine, a language, or a list; None if there are none."""
        if self.empty:
            return None
        bounded = self._within_digits()
        if bounded is not self:
            return bounded.texts()
        whole = self.whole or any(wanted and of.denominator == 1 for of, wanted in self.divisors)
        if self.low is None and self.high is None and not self.divisors and not self.without and self.whole is None:
            return _REAL
        low, high = self._whole_limits()
        if low is not None and high is not None and low > high and (whole or self.low[0] > self.high[0]):  # type: ignore[index]
            return None
        if any(limit is not None and abs(limit) >= 10**DIGITS for limit in (low, high)):
            return self._listed()
        if whole and not self.divisors and not self.without and self.whole is not False:
            return _signed(low, high, _whole)
        if self.whole is None and not self.divisors and not self.without and self._limits_are_whole():
            return _signed(low, high, _decimal)
        try:
            language = _Machine(self, whole).language()
        except TooLargeError:
            return self._listed()
        return None if language.empty else language

    def _within_digits(self) -> Numbers:
        """The set with limits of at most `_WIDE` digits, unless nothing would be left."""
        result, largest = self, Fraction(10**_WIDE)
        if self.high is not None and self.high[0] > largest and (self.low is None or self.low[0] < largest):
            result = replace(result, high=(largest, True))
        if self.low is not None and self.low[0] < -largest and (self.high is None or self.high[0] > -largest):
            result = replace(result, low=(-largest, True))
        return result

    def _limits_are_whole(self) -> bool:
        return all(limit is None or (limit[0].denominator == 1 and not limit[1]) for limit in (self.low, self.high))

    def _whole_limits(self) -> tuple[int | None, int | None]:
        """The smallest and the largest integer."""
        low = None if self.low is None else math.ceil(self.low[0])
        high = None if self.high is None else math.floor(self.high[0])
        if self.low is not None and low == self.low[0] and self.low[1]:
            low = math.floor(self.low[0]) + 1
        if self.high is not None and high == self.high[0] and self.high[1]:
            high = math.ceil(self.high[0]) - 1
        return low, high

    def _listed(self) -> list[str] | None:
        """A few integer members, for a set whose automaton would be too large."""
        step = 1
        for of, wanted in self.divisors:
            step = math.lcm(step, of.numerator) if wanted else step
        low, high = self._whole_limits()
        start = 0 if low is None or low <= 0 else -(-low // step)
        start = start if high is None or high >= start * step else high // step
        order = sorted(range(start - _MULTIPLES, start + _MULTIPLES + 1), key=lambda k: abs(k - start))
        found = [k * step for k in order if Fraction(k * step) in self and len(str(k * step)) < 900]
        return [str(n) for n in found[:_MULTIPLES]] or None


class _Machine:
    """An automaton that reads a decimal number without exponent, and tracks comparisons and remainders.

    States are tuples: the position (sign, part of the number, digits in it), the comparison with each limit, and the
    remainder of each division.
    """

    def __init__(self, numbers: Numbers, whole: bool) -> None:
        self.numbers = numbers
        self.low, self.high = numbers.low, numbers.high
        limits = [limit[0] for limit in (self.low, self.high) if limit is not None]
        points = [*limits, *numbers.without, Fraction(0)]
        scale = max((_decimals(of) for of, _ in numbers.divisors), default=0)
        negated = any(not wanted for _, wanted in numbers.divisors)
        self.whole = whole
        self.bounded_scale = scale + negated if numbers.divisors else None
        self.rests = [of * 10 ** (self.bounded_scale or 0) for of, _ in numbers.divisors]
        if any(rest.denominator != 1 or rest > _MOST_REST for rest in self.rests):
            raise TooLargeError
        digits = max(len(str(abs(math.trunc(point)))) for point in points)
        rests = math.prod(int(rest) for rest in self.rests)
        self.longest = max(digits + 1, _EXACT if rests <= _FEW_RESTS else _EXACT - _FRACTION)
        scales = max(_decimals(point) for point in points)
        self.fraction = max(_FRACTION, min(scales + 1, _EXACT)) if self.bounded_scale is None else self.bounded_scale
        self.points = [(abs(point), point < 0) for point in dict.fromkeys(points)]
        self.spelled = [_spelled(point) for point, _ in self.points]

    def language(self) -> Language:
        start = ("begin", False, 0, 0, (), ())
        number: dict[tuple[object, ...], int] = {start: 0}
        queue: deque[tuple[object, ...]] = deque([start])
        edges, accepting = [], []
        while queue:
            state = queue.popleft()
            if self._accepts(state):
                accepting.append(number[state])
            leaving = []
            for character, to in self._steps(state):
                if to not in number:
                    number[to] = len(number)
                    if len(number) > 6_000:
                        raise TooLargeError
                    queue.append(to)
                leaving.append((ord(character), ord(character), number[to]))
            edges.append(tuple(sorted(leaving)))
        return Language(edges, accepting)

    def _steps(self, state: tuple[object, ...]) -> Iterator[tuple[str, tuple[object, ...]]]:
        place, negative, before, after, orders, rests = state
        assert isinstance(before, int)
        assert isinstance(after, int)
        if place == "begin":
            if not negative:
                yield "-", ("begin", True, 0, 0, (), ())
            equal = tuple(0 for _ in self.points)
            nothing = tuple(0 for _ in self.rests)
            for digit in range(10):
                kind = "zero" if digit == 0 else "whole"
                yield str(digit), (kind, negative, 1, 0, *self._read(equal, nothing, digit, 0, 0))
            return
        assert isinstance(orders, tuple)
        assert isinstance(rests, tuple)
        if place == "whole" and before < self.longest:
            for digit in range(10):
                yield str(digit), ("whole", negative, before + 1, 0, *self._read(orders, rests, digit, before, 0))
        room = before + self.fraction <= max(_EXACT, self.fraction + 1)
        if place in ("whole", "zero") and not self.whole and self.fraction and room:
            # At the point, the number of digits before it is known, which decides every comparison with a limit of
            # another length.
            yield ".", ("point", negative, 0, 0, self._measured(orders, before), rests)
        if place in ("point", "fraction", "last zero") and after < self.fraction:
            for digit in range(10):
                kind = "fraction" if digit else "last zero"
                yield str(digit), (kind, negative, 0, after + 1, *self._read(orders, rests, digit, 0, after + 1))

    def _read(
        self, orders: tuple[int, ...], rests: tuple[int, ...], digit: int, before: int, after: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        new_orders = []
        for order, (whole, fraction) in zip(orders, self.spelled, strict=True):
            if order == 0:
                digits, at = (fraction, after - 1) if after else (whole, before)
                there = int(digits[at]) if at < len(digits) else 0
                # Before the point, more digits than the limit's make the number longer, which `_measured` handles.
                order = 0 if not after and at >= len(whole) else (digit > there) - (digit < there)
            new_orders.append(order)
        new_rests = [(10 * rest + digit) % int(of) for rest, of in zip(rests, self.rests, strict=True)]
        return tuple(new_orders), tuple(new_rests)

    def _measured(self, orders: tuple[int, ...], before: int) -> tuple[int, ...]:
        """Compares the digits before the point, taking their number into account."""
        result = []
        for order, (whole, _) in zip(orders, self.spelled, strict=True):
            result.append(order if before == len(whole) else 1 if before > len(whole) else -1)
        return tuple(result)

    def _accepts(self, state: tuple[object, ...]) -> bool:
        place, negative, before, after, orders, rests = state
        if place in ("begin", "point"):
            return False
        assert isinstance(before, int)
        assert isinstance(after, int)
        assert isinstance(orders, tuple)
        assert isinstance(rests, tuple)
        if not after:
            orders = self._measured(orders, before)
        compared = {}
        for order, (point, below), (_, fraction) in zip(orders, self.points, self.spelled, strict=True):
            if order == 0 and after < len(fraction.rstrip("0")):
                order = -1  # the limit has more digits
            value = -point if below else point
            if negative:
                # For negative numbers the order is reversed; they are below every positive limit.
                order = -order if below or point == 0 else -1
                if point == 0 and order == 0:
                    order = 0
            elif below:
                order = 1
            compared[value] = order
        zero = compared[Fraction(0)] == 0
        if self.low is not None:
            order = compared[self.low[0]] if not zero else _sign(-self.low[0])
            if order < 0 or (order == 0 and self.low[1]):
                return False
        if self.high is not None:
            order = compared[self.high[0]] if not zero else _sign(-self.high[0])
            if order > 0 or (order == 0 and self.high[1]):
                return False
        if any((compared[value] == 0 if not zero else value == 0) for value in self.numbers.without):
            return False
        # Only a number whose last digit after the point is not 0 is certainly no integer.
        if self.numbers.whole is False and place != "fraction":
            return False
        missing = 10 ** ((self.bounded_scale or 0) - after) if self.rests else 1
        return all(
            (rest * missing % int(of) == 0) == wanted
            for rest, of, (_, wanted) in zip(rests, self.rests, self.numbers.divisors, strict=True)
        )


def _sign(value: Fraction) -> int:
    return (value > 0) - (value < 0)


def _decimals(value: Fraction) -> int:
    """The number of digits after the point of a decimal number."""
    scale, rest = 0, value.denominator
    while rest != 1 and scale < 400:
        scale += 1
        rest = (value * 10**scale).denominator
    return scale


def _spelled(value: Fraction) -> tuple[str, str]:
    """The digits of a non-negative decimal number, before and after the point."""
    scale = _decimals(value)
    digits = str(int(value * 10**scale)).rjust(scale + 1, "0")
    return digits[: len(digits) - scale], digits[len(digits) - scale :]


# -- regular expressions --------------------------------------------------------------------------------------------


def _signed(low: int | None, high: int | None, magnitude: Callable[[int, int | None], str]) -> str:
    """Values from `low` to `high`; `magnitude` gives the values of one sign between inclusive limits."""
    parts = []
    if high is None or high >= 0:
        parts.append(magnitude(max(low or 0, 0), high))
    if low is None or low < 0:
        nearest = 0 if high is None or high >= 0 else -high
        if low is None or -low >= nearest:
            parts.append(f"-({magnitude(nearest, None if low is None else -low)})")
    return "|".join(parts)


def _whole(low: int, high: int | None) -> str:
    """Decimal integers from `low` >= 0 to `high`, without leading zeros."""
    parts = []
    length = len(str(low))
    while high is None or length <= len(str(high)):
        first = max(low, 0 if length == 1 else 10 ** (length - 1))
        if high is None and first == 10 ** (length - 1):
            parts.append(f"[1-9][0-9]{{{length - 1},{DIGITS - 1}}}")
            break
        last = 10**length - 1 if high is None else min(high, 10**length - 1)
        parts.extend(_same_length(str(first), str(last)))
        length += 1
    return "|".join(parts)


def _same_length(low: str, high: str) -> list[str]:
    """Alternatives for the digit strings from `low` to `high`, which have the same length."""
    rest = len(low) - 1
    if low == high:
        return [low]
    if set(low) == {"0"} and set(high) == {"9"}:
        return [f"[0-9]{{{len(low)}}}"]
    if low[0] == high[0]:
        return [f"{low[0]}({'|'.join(_same_length(low[1:], high[1:]))})"]
    begin, end = int(low[0]), int(high[0])
    below, above = [], []
    if set(low[1:]) - {"0"}:
        below = [f"{begin}({'|'.join(_same_length(low[1:], '9' * rest))})"]
        begin += 1
    if set(high[1:]) - {"9"}:
        above = [f"{end}({'|'.join(_same_length('0' * rest, high[1:]))})"]
        end -= 1
    middle = [f"[{begin}-{end}]" + (f"[0-9]{{{rest}}}" if rest else "")] if begin <= end else []
    return below + middle + above


def _decimal(low: int, high: int | None) -> str:
    """Decimal numbers from `low` >= 0 to `high`, without exponents."""
    if high is None:
        return rf"({_whole(low, None)})(\.[0-9]+|)"
    parts = [_whole(low, high), rf"{high}\.0+"]
    if low < high:
        parts.append(rf"({_whole(low, high - 1)})\.[0-9]+")
    return "|".join(parts)
