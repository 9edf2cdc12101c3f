"""The errors that data of any kind raises."""


class DataError(ValueError):
    """A data set, or a part of one, cannot be used; the message is one sentence for the user."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker hands over its whole traceback as the message: keep the sentence.
        super().__init__(message.rpartition("DataError: ")[2].strip())


class UnknownSplitError(DataError):
    """A data set is there, but not the split that was asked for."""
