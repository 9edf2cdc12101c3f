"""Errors raised by all data sets."""


class DataError(ValueError):
    """A data set or a part of it cannot be used; the message is one sentence for the user."""

    def __init__(self, message: str) -> None:
        # An error in a DataLoader worker arrives with its whole traceback: keep the sentence.
        super().__init__(message.rpartition("DataError: ")[2].strip())


class UnknownSplitError(DataError):
    """The data set exists, but does not have the requested split."""
