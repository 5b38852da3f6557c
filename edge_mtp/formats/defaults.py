"""The numbers of a request where nobody gives one."""

DEFAULT_MAX_TOKENS = 256
DEFAULT_DRAFT_LENGTH = 4  # where a fixed K is wanted, such as for measurements
