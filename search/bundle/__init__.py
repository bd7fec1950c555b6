"""What is handed over: a folder that stands on its own and proves itself where it is copied."""

from search.bundle.write import write_bundle

__all__ = ["write_bundle"]
