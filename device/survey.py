"""Several questions to a device's shell in one round trip."""

from __future__ import annotations

from collections.abc import Mapping

from edge_mtp.device.link import Link
from edge_mtp.errors import EdgeMtpError

_MARK = "=== edge-mtp "


def ask(link: Link, questions: Mapping[str, str], *, timeout_s: float = 30.0) -> dict[str, str]:
    """Runs the shell commands of `questions`, and returns the stripped standard output of each by its name.

    A command that is unknown, refused or prints nothing is absent from the result; standard error is dropped. Raises
    EdgeMtpError when the link breaks or no shell answers.
    """
    # In subshells, so that no command can end or change the shell that runs the script.
    parts = [
        f"echo '{_MARK}{name}'\n(\n{command}\n) </dev/null 2>/dev/null\necho" for name, command in questions.items()
    ]
    done = link.run("\n".join([*parts, f"echo '{_MARK}'", "exit 0"]), timeout_s=timeout_s)
    answers: dict[str, list[str]] = {}
    heard = False
    lines: list[str] = []
    for line in done.output.decode(errors="replace").splitlines():
        if line.startswith(_MARK):
            heard = True
            lines = answers.setdefault(line.removeprefix(_MARK), [])
        else:
            lines.append(line)
    if not heard:
        said = printable((done.errors or done.output).decode(errors="replace"))
        raise EdgeMtpError(
            f"{link.name}: its shell does not answer" + (f" ({said})" if said else "") + "; restart the device"
        )
    texts = {name: "\n".join(lines).strip() for name, lines in answers.items()}
    return {name: text for name, text in texts.items() if text and name in questions}


def printable(text: str, most: int = 200) -> str:
    """Makes text that came from a device fit for one line of a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:most]
