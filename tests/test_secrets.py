"""Secrets in addresses are in nothing that a search says or leaves behind."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.masked_stream import MaskedStream, masking, secrets_of

NETWORK = """
from torch import nn

def network(classes, channels, size):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, classes),
    )
"""
ODD = "pa/ss'wo rd%20oneSECRET"


def test_secrets_are_those_of_addresses_and_of_the_environment() -> None:
    environment = {
        "MLFLOW_TRACKING_URI": "https://me:fromENV@h/x?sig=sigENV",
        "MLFLOW_TRACKING_TOKEN": "tokenENV",
        "SHELL": "bash",
    }
    found = secrets_of(["postgresql://me:a%20b%2Fc@h/d?sslpassword=abc"], environment)
    assert set(found) == {"a%20b%2Fc", "a b/c", "fromENV", "sigENV", "tokenENV"}
    assert list(found) == sorted(found, key=len, reverse=True)


def test_name_and_words_that_hold_a_secret_stay_readable() -> None:
    """A database's user is none, but where it stands alone on the web; words are whole."""
    addresses = ["postgresql://admin@h/d?sslmode=require", "ssh://operator@board"]
    assert secrets_of(addresses, {}) == ("require",)
    assert secrets_of(["https://tokenTOKEN@h/x"], {}) == ("tokenTOKEN",)
    below = io.StringIO()
    MaskedStream(below, ("require",)).write("/srv/admin is required, sslmode=require")
    assert below.getvalue() == "/srv/admin is required, sslmode=***"


def test_stream_hides_them_and_is_otherwise_what_it_was() -> None:
    below = io.StringIO()
    stream = MaskedStream(below, ("secret value", "value"))
    assert stream.write("a secret value, a value\n") == 24
    stream.writelines(["value\n", "none\n"])
    assert below.getvalue() == "a ***, a ***\n***\nnone\n"
    assert stream.getvalue() == below.getvalue()
    assert stream.isatty() is False


def test_what_raised_is_hidden_too(capsys: pytest.CaptureFixture[str]) -> None:
    with masking(["postgresql://me:SECRET@h/d"]):
        print("could not log in with SECRET", file=sys.stderr)
    print("SECRET is none of ours here", file=sys.stderr)
    assert capsys.readouterr().err == "could not log in with ***\nSECRET is none of ours here\n"


@pytest.mark.slow
def test_odd_passwords_are_in_no_file_and_on_no_screen(tmp_path: Path) -> None:
    """A store that is away repeats its address in every error; all files of the run are read."""
    (tmp_path / "tiny.py").write_text(NETWORK)
    address = f"http://me:{ODD}@127.0.0.1:9/?access_token=twoSECRET&sig=threeSECRET#fourSECRET"
    environment = {
        **os.environ,
        "COMPRESSION_SEARCH_CACHE": str(tmp_path / "cache"),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
        "MLFLOW_TRACKING_PASSWORD": "fiveSECRET",
        "OMP_NUM_THREADS": "1",
    }
    options = ["--model", "tiny:network", "--target", "arm", "--max-drop", "0.5"]
    options += ["--no-training", "--study", "cells", "--output", "runs", "--json"]
    store = ["--tracking-uri", address]
    runs = [([*options, *store], {0}), (["publish", "runs/cells", *store], {1, 2, 3})]
    for arguments, codes in runs:
        done = subprocess.run(
            [sys.executable, "-m", "search", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode in codes, done.stderr
        assert "Traceback" not in done.stderr
        assert "127.0.0.1:9" in done.stderr
        assert "SECRET" not in done.stderr + done.stdout
    leaking = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and b"SECRET" in path.read_bytes()
    ]
    assert leaking == []
