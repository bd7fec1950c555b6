"""Where models come from: one file per kind of source, found by listing this package.

A source has ``PREFIX``, ``USAGE`` and three functions: ``check(argument)`` raises ``InputError``
for a name that it doesn't know, and imports nothing that is slow; ``declared(argument) ->
Declared | None`` is what it knows of the input; ``build(argument, classes, channels, size) ->
torch.nn.Module`` has fresh weights.
"""
