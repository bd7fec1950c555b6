"""Where models come from: one file per kind of source, found by listing this package.

A source has ``PREFIX``, ``USAGE``, ``check(argument)``, which raises ``InputError`` for what can't
be built, and ``build(argument, classes, channels, size) -> torch.nn.Module`` with fresh weights.
"""
