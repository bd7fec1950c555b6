"""``README.md`` of a bundle: what it is, what was shown, how to use it; a model card."""

from __future__ import annotations

import re

from evaluators import Measurement
from search.inputs.data.preprocessing import told
from search.result import Finalist, SearchResult
from search.telling import words
from search.telling.figures import value
from search.telling.report.formats import told_format
from search.telling.summary import Contender, baseline_of, contender, simple_of
from search.telling.words import metric_title
from spaces.space import input_size

_AGAIN = """The same command with the same inputs, on the same machine with the same versions,
gives this plan and this accuracy again, where no clock decides: with one worker (`--workers 1`,
the default), with `--trials` and without `--budget`, and with a latency that is estimated, not
measured."""


def model_card(result: SearchResult, finalist: Finalist, golden_images: int) -> str:
    """The card as Markdown; fields that only the owner can fill are marked so."""
    data = result.data
    winner = contender(finalist.trial, result.metric, finalist.test)
    metric = metric_title(result.metric)
    size = input_size(finalist.trial.plan, data.preprocess.size)
    mode = "gray" if data.preprocess.channels == 1 else "RGB"
    shape = ", ".join(map(str, ("batch", data.preprocess.channels, *size)))
    return f"""---
# To be filled by the owner of the model and its data:
license:
license_name:
license_link:
# Filled by the search:
library_name: onnx
pipeline_tag: image-classification
---

# {_plain(result.model_spec)}, compressed for {_plain(result.profile.title)}

An image classifier with {len(data.classes)} classes ({_classes(data.classes)}), as one ONNX file
for ONNX Runtime. Input: float32, ({shape}), made from pixels as `preprocess.json` says:
{told(data.preprocess.with_input(size))}. Output: one score a class.

## Use

    pip install onnxruntime numpy
    python example.py
    python verify.py

`example.py` classifies one of the golden images; `python example.py photo.jpg` (with
`pip install pillow`) a picture of yours, which goes through the steps that photos went through in
the search: turned as its EXIF says, made {mode}, resized, normalized.

`verify.py` checks that no file changed or was added, that the model gives its expected answers on
the {golden_images} golden images, and prints the latency on
the machine where it runs; its exit code is 0 when everything holds. `sha256sum -c manifest.sha256`
checks the files alone.

## What was shown

{_claim(finalist)}

| | {metric}, test | latency | its source | size |
| --- | --- | --- | --- | --- |
{_rows(result, winner)}
{_counts(finalist)}- **Latency.** {_how(winner.figures.measurements.get("latency_ms"))}

{_formats(result)}## Data

{_plain(data.name)}, SHA-256 of pixels, labels and preprocessing `{data.fingerprint}`.
Images: {len(data.train)} for training ({len(data.calibration)} of them for calibration),
{len(data.validation)} for validation, {len(data.test)} for the test.
{_notes(data.notes)}
The test images were drawn like the training images: on images of another kind the accuracy is
unknown. The golden set holds {golden_images} test images; mind their license before you pass the
bundle on.

## To be filled by the owner

- License of the model:
- License of the data, the golden images included:
- Intended use, and uses that it is not for:
- Contact:

## How it was made

    {_one_line(result.command)}

{_AGAIN}

{_environment(result)}

`plan.json` is what was done to the model, `metrics.json` every figure with its source.
"""


def _claim(finalist: Finalist) -> str:
    outcome = finalist.outcome
    return outcome.sentences.replace(outcome.title, f"**{outcome.title}**", 1)


def _counts(finalist: Finalist) -> str:
    """What the bound is made of; nothing of the untouched model, which is compared with itself."""
    bound = finalist.bound
    if finalist.outcome.kind == "untouched":
        return ""
    holds = finalist.outcome.own_bound is not None
    method = f" (paired, {_plain(bound.method)})" if holds else ""
    return (
        f"- **Drop.** {bound.images} test images that the search never saw: {bound.lost} lost, "
        f"{bound.gained} gained\n  against the baseline{method}.\n"
    )


def _row(title: str, own: Contender) -> str:
    latency = own.figures.measurements.get("latency_ms")
    cells = (
        title,
        words.percent(own.test.value if own.test else None),
        words.latency(latency.value if latency else None),
        words.source(latency),
        words.size(value(own.figures, "size_bytes")),
    )
    return f"| {' | '.join(cells)} |\n"


def _rows(result: SearchResult, winner: Contender) -> str:
    simple = simple_of(result)
    rows = _row("baseline, FP32", baseline_of(result))
    if simple:
        origin = _plain(words.origin(simple.trial.origin))
        rows += _row(f"strongest simple baseline ({origin})", simple)
    return rows + _row("this model", winner)


def _formats(result: SearchResult) -> str:
    if not result.exports:
        return ""
    told = (told_format(export, metric_title(result.metric)) for export in result.exports)
    lines = "\n".join(f"- {_plain(sentence)}" for sentence in told)
    return f"## Other formats\n\nIn `exports/`, made of the same weights:\n\n{lines}\n\n"


def _how(latency: Measurement | None) -> str:
    if latency is None:
        return "Not evaluated."
    spread = ""
    if latency.low is not None and latency.high is not None:
        spread = f" (between {words.latency(latency.low)} and {words.latency(latency.high)})"
    return (
        f"{words.latency(latency.value)}{spread} at batch 1, {latency.source}: "
        f"{_plain(latency.how)}"
    )


def _classes(names: tuple[str, ...]) -> str:
    shown = ", ".join(_plain(name) for name in names[:10])
    return shown + (", …" if len(names) > 10 else "")


def _notes(notes: tuple[str, ...]) -> str:
    return "".join(f"\n- {_plain(note)}\n" for note in notes)


def _environment(result: SearchResult) -> str:
    lines = (f"- {_plain(k)}: {_plain(v)}" for k, v in sorted(result.environment.items()))
    return "\n".join(lines)


def _plain(text: str) -> str:
    """One line that Markdown and HTML read as plain text."""
    return re.sub(r"([\\`*_\[\]<>|&#])", r"\\\1", _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
