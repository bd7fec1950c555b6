"""Who runs trials. One backend, one file."""

from search.backends.backend import Backend, Finished
from search.backends.inline import InlineBackend

__all__ = ["Backend", "Finished", "InlineBackend"]
