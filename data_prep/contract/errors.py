"""The root of the errors that are meant for people; every room derives its own from here."""


class RefusedError(Exception):
    """Input that we do not accept: a bad config, command line, file or manifest.

    The message says what, where, found, expected and what to do. Commands print it and exit 2.
    """


class ConfigError(RefusedError):
    """A config file or override that the schema does not accept."""


class IntegrityError(Exception):
    """Stored bytes that are not what the manifest promises. Commands print it and exit 1."""


class CutShortError(IntegrityError):
    """An object that ends before the bytes that are asked for."""


class NotFoundError(RefusedError):
    """An object or folder that should be there and is not."""


class StorageError(Exception):
    """Storage that kept failing after every retry, a full disk for example. Commands print it and exit 1."""
