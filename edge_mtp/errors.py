"""The one exception a user is meant to read."""


class EdgeMtpError(Exception):
    """A refusal: one line that names the offending value and the cure.

    The command line prints `str(error)` without a traceback and exits with status 1; as a library, catch this
    type to catch every refusal of edge-mtp.
    """
