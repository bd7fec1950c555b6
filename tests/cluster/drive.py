"""A search with fake jobs on a Ray cluster: a process that a test kills and starts again.

python drive.py ADDRESS STORAGE FOLDER TRIALS

With the address ``here`` there is no cluster, and jobs run in the process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import durable

from search.errors import SearchError
from search.running.backends import Resources
from search.running.backends.ray import ENVIRONMENT, RayBackend, connect


def main(address: str, storage: str, folder: Path, trials: int) -> None:
    import os

    if address == "here":
        durable.TRIAL_S = 0.3
        durable.search_in(folder, trials, storage=storage)
        return

    os.environ.update(ENVIRONMENT)
    connect(address, None)
    argument = {"sleep_s": 0.5, "begun": str(folder / "begun")}
    backend = RayBackend(
        "fake_jobs:open_fake", argument, Resources(1), folder / "plans", lambda *_: None, print
    )
    durable.search_in(folder, trials, backend, storage)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    except SearchError as error:
        sys.exit(str(error))
