"""Renders untrusted chat templates: jinja, as transformers runs it.

The environment is that of `transformers.utils.chat_template_utils`: its `tojson`, `strftime_now`, `raise_exception`,
loop controls, `{% generation %}` and white-space rules. So a template renders here just as in training.

A template is a program. It runs in jinja2's sandbox, in its own thread, with limits on time, on memory and on single
operations that could exceed both at once (`'a' * 10**10`). Every error in it becomes an `EdgeMtpError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

from edge_mtp.errors import EdgeMtpError

T = TypeVar("T")

LONGEST_TEMPLATE = 1 << 20  # characters; Google's have 20,000
TIME_LIMIT_S = 10.0  # for one rendering, which usually takes milliseconds
MEMORY_LIMIT = 1 << 30  # bytes by which the process may grow meanwhile
_LARGEST = 1 << 24  # most characters or items that one operation may make
_MOST_BITS = 1 << 14  # of a number
_PATIENCE_S = 5.0  # for a thread to react to being stopped
_STACK = 64 << 20  # bytes for that thread, so that deep recursion raises Python's error instead of crashing
_starting = threading.Lock()  # the stack size is a setting of the whole process, and several threads may render


class ChatTemplate:
    """A compiled template.

    Raises EdgeMtpError for a source that is not valid jinja, or is too long.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        if len(source) > LONGEST_TEMPLATE:
            raise EdgeMtpError(
                f"the chat template has {len(source):,} characters, more than the {LONGEST_TEMPLATE:,} that are read;"
                " use the checkpoint's own"
            )

    def render(self, variables: Mapping[str, Any]) -> str:
        """Renders the template with `variables`, which are plain JSON values.

        Raises EdgeMtpError if the template refuses them, fails, or exceeds a limit.
        """
        template = self._compiled
        return _bounded("refuses this conversation", lambda: template.render(variables))

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return _bounded("is not valid jinja", lambda: _Environment().from_string(self.source))


# -- the language ---------------------------------------------------------------------------------------------------


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the model's own text for training. Here only its content counts."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class _Namespace(jinja2.utils.Namespace):
    """jinja's namespace, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _Code(jinja2.compiler.CodeGenerator):
    """Compiles `~` to `_Environment.joined`, which limits the size: repeated doubling would quickly fill the memory."""

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])
    code_generator_class = _Code

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
        self.filters["tojson"] = _tojson
        self.filters = {name: _modest(name, function) for name, function in self.filters.items()}
        # From minijinja, for templates written for the stock engine, such as ours (edge_mtp.export.minijinja).
        self.filters |= {"split": _split, "lstrip": str.lstrip, "rstrip": str.rstrip}
        self.tests |= {"startingwith": str.startswith, "endingwith": str.endswith}
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)
        self.globals["namespace"] = _Namespace

    def joined(self, parts: tuple[Any, ...]) -> str:
        texts = [str(part) for part in parts]
        _check_size(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # as jinja2 has it
        # The sandbox wraps the method `format` of strings.
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes):
            _check_method(str(getattr(method, "__name__", "")), str(owner), (*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _split(text: str, separator: str | None = None, times: int = -1) -> list[str]:
    return text.split(separator, times)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


# -- limits ---------------------------------------------------------------------------------------------------------


class _TooMuchError(Exception):
    """A template exceeded a limit that no real chat template needs to exceed."""


class _OverrunError(BaseException):
    """Raised in the thread of a template that ran too long. Not an Exception, so that nothing there catches it."""


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.TemplateError(f"a namespace cannot hold {name!r}; names there begin with a letter")


def _check_operation(operator: str, left: Any, right: Any) -> None:
    """Refuses an operation whose result would be huge, before computing it."""
    if operator == "%" and isinstance(left, str):
        _check_widths(left)
    elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        _check_size(len(left) + len(right))
    elif operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str | list | tuple) and isinstance(times, int):
                _check_size(len(many) * times)
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * abs(right))


def _check_method(name: str, text: str, arguments: tuple[Any, ...]) -> None:
    _check_numbers(arguments)
    if name in ("format", "format_map"):
        _check_widths(text)
    if name == "replace" and len(arguments) >= 2 and all(isinstance(a, str) for a in arguments[:2]):
        _check_size(len(text) + (text.count(arguments[0]) * len(arguments[1])))
    if name == "join" and arguments and isinstance(arguments[0], str | list | tuple):
        _check_size(len(text) * len(arguments[0]))


def _modest(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A version of a filter that refuses huge numbers as arguments."""

    @wraps(function)  # copies the attributes that jinja2 reads
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check_numbers((*args, *kwargs.values()) if name != "tojson" else tuple(kwargs.values()))
        if name == "format":
            _check_widths(str(args[0]))
        return function(*args, **kwargs)

    # Only filters that count: a value piped into any other filter may be a large number.
    return checked if name in _COUNTING else function


_COUNTING = {"batch", "center", "format", "indent", "round", "slice", "tojson", "truncate", "wordwrap"}


def _check_numbers(arguments: tuple[Any, ...]) -> None:
    for argument in arguments:
        if isinstance(argument, int) and abs(argument) > _LARGEST:
            raise _TooMuchError(f"it asks for {argument:.3g} of something")


def _check_size(size: int) -> None:
    if size > _LARGEST:
        raise _TooMuchError(f"it makes a text or list of {size:.3g}")


def _check_bits(bits: int) -> None:
    if bits > _MOST_BITS:
        raise _TooMuchError(f"it makes a number of {bits:.3g} bits")


def _check_widths(pattern: str) -> None:
    if re.search(r"\d{6}|\*", pattern):
        raise _TooMuchError("it formats text to a huge width")


def _bounded(trouble: str, work: Callable[[], T]) -> T:
    """Runs `work` in a thread that is stopped at a limit, and returns its result.

    Raises EdgeMtpError "the chat template ...", with `trouble` if `work` raised an exception.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        with contextlib.suppress(_OverrunError):
            try:
                done.append(work())
            except Exception as error:
                failed.append(error)

    thread = _started(run)
    begun, before = time.monotonic(), _memory()
    try:
        thread.join(0.05)
        while thread.is_alive():
            if time.monotonic() - begun > TIME_LIMIT_S:
                limit = f"runs for more than {TIME_LIMIT_S:.0f} s"
            elif _memory() - before > MEMORY_LIMIT:
                limit = f"takes more than {MEMORY_LIMIT >> 30} GiB of memory"
            else:
                thread.join(0.05)
                continue
            _stop(thread)
            raise EdgeMtpError(f"the chat template {limit} and was stopped; use the checkpoint's own")
    except KeyboardInterrupt:
        _stop(thread)
        raise
    if failed:
        raise EdgeMtpError(f"the chat template {trouble}: {_told(failed[0])}") from None
    return done[0]


def _started(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, name="chat template", daemon=True)
    with _starting:
        previous = threading.stack_size(_STACK)
        try:
            thread.start()
        finally:
            threading.stack_size(previous)
    return thread


def _stop(thread: threading.Thread) -> None:
    """Ends a thread at its next line of Python. A template's loops are compiled to Python, so they end too."""
    end = time.monotonic() + _PATIENCE_S
    while thread.is_alive() and thread.ident is not None and time.monotonic() < end:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_OverrunError))
        thread.join(0.5)


def _memory() -> int:
    """The resident memory of this process in bytes; 0 if unknown, in which case memory is not limited."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return 0


def _told(error: BaseException) -> str:
    """A template's error as one line."""
    place = f" in line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    said = " ".join(str(error).split())[:300]
    if isinstance(error, jinja2.TemplateError | _TooMuchError):
        return (said or type(error).__name__) + place
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
