"""``python -m evaluators``."""

from __future__ import annotations

import sys

from hardware_profiles.requirements import told_when_missing


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    with told_when_missing("error"):
        from evaluators import cli

        return cli.main()


if __name__ == "__main__":
    sys.exit(main())
