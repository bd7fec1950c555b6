"""Who runs trials. One backend, one file; found by listing this package."""

from search.running.backends.backend import Backend, BackendKind, Finished, Listen, Resources
from search.running.backends.inline import InlineBackend

__all__ = ["Backend", "BackendKind", "Finished", "InlineBackend", "Listen", "Resources"]
