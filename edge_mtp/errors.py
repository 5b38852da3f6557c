"""The one exception that is meant for users."""


class EdgeMtpError(Exception):
    """An error for the user: one line that names the offending value and the remedy.

    The command line prints `str(error)` without a traceback and exits with status 1. Library users catch this type to
    catch every error that edge-mtp reports.
    """
