"""What is wrong with a trace."""

from picker.errors import UsageError


class TraceError(UsageError):
    """A trace that cannot be read: names the file, the line if it is one, and what was expected there."""
