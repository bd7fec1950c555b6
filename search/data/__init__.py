"""Where images come from: one file per kind of source, found by listing this package.

A source has ``PREFIX``, ``USAGE`` and ``load(argument) -> RawData``, which raises ``InputError``.
"""
