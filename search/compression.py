"""The result of ``compress``: the front, the best of it, and what can be done with it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from search.bundle.exports.exporter import Exported
from search.errors import InputError
from search.result import SearchResult
from search.telling import words
from search.telling.summary import BUNDLE, Contender, closing, contender, stopped, summary
from search.telling.summary import table as comparison
from search.telling.summary import to_json as json_of
from search.trial import Trial


@dataclass(frozen=True)
class Candidate:
    """A model that was exported and evaluated.

    ``metric`` is the search's metric on the validation images, in [0, 1]; ``latency_source`` is
    ``measured`` or ``estimated``; ``model`` is the ONNX file.
    """

    trial: int
    origin: str
    plan: dict[str, Any]
    metric: float
    latency_ms: float
    latency_source: str
    size_bytes: int
    model: Path


@dataclass(frozen=True)
class Winner(Candidate):
    """The model that is delivered, with what the test images showed of it.

    ``drop`` is the metric's difference to the untouched model and ``drop_bound`` its own bound,
    read alone (None where the metric has none that holds); ``proven``: the drop is shown to be
    within the limit. ``proof`` says so, or why not. ``bundle`` is its folder.
    """

    metric_test: float
    drop: float
    drop_bound: float | None
    proven: bool
    proof: str
    bundle: Path


class Compression:
    """How a search ended; shown as a table in a notebook, and as text by ``print``."""

    def __init__(self, details: SearchResult) -> None:
        self.details = details
        self._folder = details.folder.resolve()  # the current folder may change

    @cached_property
    def front(self) -> tuple[Candidate, ...]:
        """Models that no other beats in both metric and latency, fastest first."""
        return tuple(self._candidate(trial) for trial in self.details.front)

    @cached_property
    def baseline(self) -> Candidate:
        """The untouched model."""
        return self._candidate(self.details.baseline)

    @cached_property
    def best(self) -> Winner | None:
        """The fastest whose drop is proven, or else the fastest by what was seen.

        None when nothing meets the limits; ``blocking`` says why.
        """
        found = self.details.winner
        if found is None:
            return None
        own = contender(found.trial, self.details.metric, found.test)
        assert own.test is not None
        return Winner(
            **self._figures(own),
            metric_test=own.test.value,
            drop=found.bound.drop,
            drop_bound=found.outcome.own_bound,
            proven=found.proven,
            proof=found.outcome.sentences,
            bundle=self._folder / BUNDLE,
        )

    @property
    def blocking(self) -> tuple[str, ...]:
        """Where nothing meets the limits: which limit stood in the way, and what it would buy."""
        return self.details.blocking

    @property
    def exports(self) -> tuple[Exported, ...]:
        """The best model in the other formats that were asked for, or why it is not."""
        return self.details.exports

    @property
    def report(self) -> Path:
        """The page with everything, ``report.html``."""
        return self._folder / "report.html"

    def export(self, path: str | Path) -> Path:
        """Copies the best model's bundle to the new folder ``path`` and returns it.

        It holds ``model.onnx``, how to feed it, and ``verify.py``, which proves it on the device.

        Raises:
            InputError: nothing meets the limits, or something is at ``path`` already.
        """
        target = Path(path)
        if self.best is None:
            raise InputError(
                f"there must be a model to export, but nothing meets the limits: "
                f"{' '.join(self.blocking)}"
            )
        if target.exists():
            raise InputError(
                f"a bundle must be exported to a new folder, but {str(target)!r} exists; name "
                f"another or remove it"
            )
        shutil.copytree(self.best.bundle, target)
        return target

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints on the command line."""
        return json_of(self.details)

    def __str__(self) -> str:
        """The table and the sentences that the command line ends with."""
        return summary(self.details)

    def __repr__(self) -> str:
        best = self.best
        told = "nothing meets the limits"
        if best is not None:
            shown = "proven" if best.proven else "unproven"
            told = f"best: trial {best.trial}, {best.latency_ms:.3g} ms, drop {shown}"
        return f"<Compression {self.details.study!r}, {len(self.front)} on the front, {told}>"

    def _repr_html_(self) -> str:
        header, rows = comparison(self.details)
        titles = ["trial", "from", self.details.metric.replace("_", " "), "latency", "", "size"]
        front = [
            [
                str(each.trial),
                words.origin(each.origin),
                words.percent(each.metric),
                words.latency(each.latency_ms),
                each.latency_source,
                words.size(each.size_bytes),
            ]
            for each in self.front
        ]
        told = [*closing(self.details), stopped(self.details)]
        return (
            f"<div>{_table(header, rows)}{''.join(f'<p>{escape(line)}</p>' for line in told)}"
            f"<details><summary>The front: {len(front)} models, fastest first</summary>"
            f"{_table(titles, front)}</details>"
            f"<p>Report: <code>{escape(str(self.report))}</code></p></div>"
        )

    def _candidate(self, trial: Trial) -> Candidate:
        return Candidate(**self._figures(contender(trial, self.details.metric)))

    def _figures(self, own: Contender) -> dict[str, Any]:
        assert own.validation is not None
        assert own.trial.model is not None
        latency = own.figures["latency_ms"]
        return {
            "trial": own.trial.number,
            "origin": own.trial.origin,
            "plan": own.trial.plan.to_json(),
            "metric": own.validation.value,
            "latency_ms": latency.value,
            "latency_source": latency.source,
            "size_bytes": round(own.figures.value("size_bytes")),
            "model": self._folder / own.trial.model,
        }


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
