"""Other formats of the winner: one file per format, found by listing this package.

A module with an ``EXPORTER`` is one; see ``Exporter`` in ``exporter.py``. ``ort.py`` is the
smallest.
"""
