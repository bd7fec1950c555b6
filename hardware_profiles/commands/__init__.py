"""Subcommands of ``python -m hardware_profiles``: one module, one command.

A command is a module of this package (``_`` in its name becomes ``-``) whose docstring is its
help and which has ``add_arguments(parser: ArgumentParser) -> None`` and
``run(args: Namespace) -> int`` (the exit code). Adding a file adds the command.
"""
