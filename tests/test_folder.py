"""A study's folder: made, found again, and refused when it is another's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search.errors import InputError, SearchError, StudyError
from search.running.study_folder import (
    FOLDER_VERSION,
    StudyFolder,
    check_identity,
    compare_identity,
    in_use,
    open_folder,
)

IDENTITY = {"model": "torchvision:resnet18", "target": "raspberry-pi-4b", "seed": "0"}


def begun(runs: Path, study: str | None = None) -> StudyFolder:
    folder = open_folder(runs, study, resume=False, default="arm")
    check_identity(folder, IDENTITY)
    return folder


def refused(kind: type[SearchError], *parts: str, **given: object) -> None:
    with pytest.raises(kind) as caught:
        open_folder(**given)  # type: ignore[arg-type]
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_new_study_has_its_folders(tmp_path: Path) -> None:
    folder = begun(tmp_path / "runs", "mine")
    assert folder.path == tmp_path / "runs" / "mine"
    assert folder.plans.is_dir()
    assert folder.scratch.is_dir()
    kept = json.loads(folder.identity.read_text())
    assert kept == {"version": FOLDER_VERSION, "id": folder.id, **IDENTITY}


def test_name_is_made_from_target_and_time_when_none_is_given(tmp_path: Path) -> None:
    assert begun(tmp_path).name.startswith("arm-20")


def test_existing_study_needs_resume(tmp_path: Path) -> None:
    folder = begun(tmp_path, "mine")
    given = {"runs": tmp_path, "study": "mine", "default": "arm"}
    refused(
        StudyError, "must name a new study", str(folder.path), "--resume", resume=False, **given
    )
    assert open_folder(**given, resume=True) == folder  # type: ignore[arg-type]


def test_resume_needs_an_existing_study(tmp_path: Path) -> None:
    given = {"runs": tmp_path, "resume": True, "default": "arm"}
    refused(StudyError, "must find the study", "does not exist", "leave out", study="no", **given)
    refused(StudyError, "must find a study", "none called arm-", "--study", study=None, **given)


def test_study_that_was_interrupted_before_it_had_begun_can_be_resumed(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, "mine", resume=False, default="arm")
    assert open_folder(tmp_path, "mine", resume=True, default="arm") == folder
    assert open_folder(tmp_path, "mine", resume=False, default="arm") == folder


def test_latest_study_of_the_target_is_resumed(tmp_path: Path) -> None:
    for name, age in (("arm-1", 30), ("arm-2", 10), ("arm-3", 20), ("host-1", 0)):
        identity = begun(tmp_path, name).identity
        os.utime(identity, (10**9 - age, 10**9 - age))
    assert open_folder(tmp_path, None, resume=True, default="arm").name == "arm-2"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs"])
def test_study_that_is_no_plain_name_is_refused(name: str, tmp_path: Path) -> None:
    refused(
        InputError,
        "must be a plain name",
        repr(name),
        runs=tmp_path,
        study=name,
        resume=False,
        default="arm",
    )


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A file stands where a folder would have to be: not even root can write there."""
    (tmp_path / "file").write_text("")
    refused(
        InputError,
        "--output must be a folder that can be written to",
        str(tmp_path / "file"),
        "choose another",
        runs=tmp_path / "file",
        study="mine",
        resume=False,
        default="arm",
    )


def test_study_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    check_identity(folder, IDENTITY)
    for key, other in (("model", "torchvision:vgg11"), ("target", "host"), ("seed", "1")):
        with pytest.raises(StudyError) as caught:
            check_identity(folder, {**IDENTITY, key: other})
        message = str(caught.value)
        assert f"must be of the same {key}" in message
        assert IDENTITY[key] in message
        assert other in message
        assert "--study" in message


def test_part_of_an_identity_is_compared_before_the_rest_is_known(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, "mine", resume=False, default="arm")
    compare_identity(folder, {"model": "anything"})  # new: nothing to compare with
    assert not folder.identity.exists()
    check_identity(folder, IDENTITY)
    compare_identity(folder, {"seed": "0"})
    with pytest.raises(StudyError, match="must be of the same seed"):
        compare_identity(folder, {"seed": "9"})


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"version": 0}', "must be of version"), ("{cut off", "must be JSON, but is not")],
)
def test_identity_that_cannot_be_read_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    folder = begun(tmp_path)
    folder.identity.write_text(content)
    with pytest.raises(StudyError, match=message):
        check_identity(folder, IDENTITY)


def test_study_is_used_by_one_process_at_a_time(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    script = (
        "import sys, time; from pathlib import Path\n"
        "from search.running.study_folder import StudyFolder, in_use\n"
        "with in_use(StudyFolder(Path(sys.argv[1]))): print('mine', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(folder.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(StudyError, match=f"in use by process {other.pid}"), in_use(folder):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    with in_use(folder):  # the dead one's hold is gone with it
        pass
    with in_use(folder):
        pass
