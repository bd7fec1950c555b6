"""Where images come from: one file per kind of source, found by listing this package.

A source has ``PREFIX``, ``USAGE`` and two functions, both of which raise ``InputError``:
``check(argument)`` looks at what can be seen without reading the data or importing anything slow;
``load(argument) -> RawData`` reads them, and checks first.
"""
