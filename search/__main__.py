"""``python -m search``, and the script ``compression-search``."""

import sys

from hardware_profiles.requirements import told_when_missing
from search import cli
from search.running.broken_pipes import outlive_readers


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    outlive_readers()
    with told_when_missing("search"):
        return cli.main()


if __name__ == "__main__":
    sys.exit(main())
