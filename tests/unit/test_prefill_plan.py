"""Which prefill graphs cache a prompt, against trying everything."""

import ctypes
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_build import part

OVERHEAD_ROWS = 12  # what a pass of a length that was never timed costs beside its rows


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(part("prefill_plan")))
    loaded.plan_new.restype = loaded.plan_copy.restype = ctypes.c_void_p
    loaded.plan_observe.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_double)
    return loaded


class Plan:
    def __init__(self, library: ctypes.CDLL, lengths: list[int], times: dict[int, float]) -> None:
        self._library, self._lengths = library, (ctypes.c_int32 * len(lengths))(*lengths)
        self._plan = ctypes.c_void_p(library.plan_new(self._lengths, len(lengths)))
        for rows, us in times.items():
            library.plan_observe(self._plan, rows, us)

    def chunks(self, count: int, first: int, context: int) -> list[int]:
        found = (ctypes.c_int32 * 4096)()
        number = self._library.plan_chunks(self._plan, count, first, context, found, len(found))
        return list(found[:number])

    def remember(self) -> "Plan":
        copy = Plan(self._library, [], {})
        copy._plan = ctypes.c_void_p(self._library.plan_copy(self._plan, self._lengths, len(self._lengths)))
        return copy

    def __del__(self) -> None:
        self._library.plan_free(self._plan)


LENGTHS = st.lists(st.integers(2, 40), min_size=0, max_size=4, unique=True).map(sorted)
TIMES = st.dictionaries(st.integers(1, 40), st.floats(1, 1e6), max_size=5)


@given(LENGTHS, TIMES, st.integers(0, 60), st.integers(0, 60), st.integers(1, 120))
def test_chunks_cover_the_prompt_in_the_least_time_and_stay_in_the_cache(
    library: ctypes.CDLL, lengths: list[int], times: dict[int, float], count: int, first: int, context: int
) -> None:
    context = max(context, first + count)
    times = {rows: us for rows, us in times.items() if rows in (1, *lengths)}
    plan = Plan(library, lengths, times)
    chunks = plan.chunks(count, first, context)
    # What is remembered has fewer digits, which may put chunks of one time in another order.
    assert sorted(plan.remember().chunks(count, first, context)) == sorted(chunks)
    assert set(chunks) <= {1, *lengths}
    done = 0
    for rows in chunks:
        assert done < count
        assert first + done + rows <= context  # a padded chunk too
        done += rows
    assert done >= count

    unit = sum(times.values()) / sum(rows + OVERHEAD_ROWS for rows in times) if times else 1.0

    def time(rows: int) -> float:
        return times.get(rows, unit * (rows + OVERHEAD_ROWS))

    @cache
    def least(at: int) -> float:
        if at >= count:
            return 0.0
        fitting = [rows for rows in (1, *lengths) if first + at + rows <= context]
        return min(time(rows) + least(at + rows) for rows in fitting)

    longest = max([1, *lengths])
    if count <= longest:  # beyond, chunks of the longest come first
        assert sum(map(time, chunks)) == pytest.approx(least(0))
