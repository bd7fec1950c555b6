"""Where the time of a search goes: preparation, training, evaluation, and what is left.

Runs the main job on the embedded default (about as long as --budget says, 3 minutes unless
given), or looks at a finished study with --study FOLDER. Exits 1 when training and evaluation
are less than 85 % of the time, preparation (training the baseline, sensitivity) set aside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import optuna

from search.sqlite_url import sqlite_url

LEAST = 0.85
WORK = ("train", "recalibrate", "evaluate", "facts")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", default="3m", help="of the search that is run (default 3m)")
    parser.add_argument("--study", type=Path, help="the folder of a finished study instead")
    args = parser.parse_args()
    if args.study is not None:
        return report(args.study)
    with tempfile.TemporaryDirectory() as folder:
        command = f"-m search --target arm --max-drop 0.03 --study overhead --budget {args.budget}"
        command += " --no-cache"
        subprocess.run(
            [sys.executable, *command.split(), "--output", folder],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return report(Path(folder) / "overhead")


def report(folder: Path) -> int:
    """Prints the table and the line of JSON; the exit code."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=None, storage=sqlite_url(folder / "study.db"))
    kept = [t.user_attrs for t in study.get_trials(deepcopy=False)]
    trials = [each for each in kept if "trial" in each]
    trainings = [each["training"] for each in kept if "training" in each]  # of finalists, again
    seconds = dict.fromkeys(WORK, 0.0)
    for told in (*(each["trial"] for each in trials), *trainings):
        for stage, spent_s in told["stages"].items():
            seconds[stage] = seconds.get(stage, 0.0) + spent_s
    first_s = trials[0]["elapsed_s"]  # the baseline's trial and all that comes before it
    total_s = max(each["elapsed_s"] for each in kept)
    first_work_s = sum(trials[0]["trial"]["stages"].values())
    searched_s = total_s - first_s + first_work_s
    share = sum(seconds[stage] for stage in WORK) / searched_s
    print(f"{'preparation':<14}{first_s - first_work_s:8.1f} s  (set aside)")
    for stage, spent_s in seconds.items():
        print(f"{stage:<14}{spent_s:8.1f} s  {spent_s / searched_s:6.1%}")
    print(f"{'all else':<14}{searched_s - sum(seconds.values()):8.1f} s")
    print(f"{len(trials)} trials in {total_s:.1f} s; training and evaluation {share:.1%}")
    figures = {"trials": len(trials), "seconds": total_s, "share": share, "stages_s": seconds}
    print(json.dumps(figures | {"least": LEAST}))
    return int(share < LEAST)


if __name__ == "__main__":
    sys.exit(main())
