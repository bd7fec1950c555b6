"""Memory that a fresh process takes to load an exported file and run it once."""

from __future__ import annotations

import platform
from pathlib import Path

from evaluators.evaluator import EvaluationContext
from evaluators.measurement import Measurement
from hardware_profiles.devices.device import HOST
from hardware_profiles.devices.session import AgentSession
from hardware_profiles.host import cpu_name


class Memory:
    """``peak_memory_bytes``, and the part of it above what the runtime takes without a model.

    The floor (Python, numpy and onnxruntime imported, no model) is the peak of the very same
    process just before it loads the file. What two runs differ by is some pages, which decide
    nothing: the figures count as repeatable.
    """

    name = "memory"
    cheap = True

    def applies(self, context: EvaluationContext) -> bool:
        """On processors that run ONNX Runtime."""
        return context.profile.kind == "cpu"

    def evaluate(self, model: Path, context: EvaluationContext) -> tuple[Measurement, ...]:
        """Runs the file once, at batch 1 with one thread, in a new process on this host.

        Raises:
            ModelError: the runtime cannot load or run the file.
        """
        with AgentSession(HOST) as agent:
            floor = int(agent.ask("memory")["peak_bytes"])
            with agent.opened(str(model), threads=1) as session:
                agent.ask("time", session=session, warmup=0, min_runs=1, min_ms=0, max_ms=0)
                peak = int(agent.ask("memory")["peak_bytes"])
            runtime = agent.about["onnxruntime"]
        machine = platform.machine()
        foreign = "" if context.profile.name == "host" else f", not on {context.profile.title}"
        how = (
            f"peak resident memory of a fresh process on this machine ({cpu_name()}, {machine})"
            f"{foreign}, that loads the file and runs it once; onnxruntime {runtime}, 1 thread"
        )
        detail = {"machine": machine}
        return (
            Measurement(
                "peak_memory_bytes", peak, "bytes", "measured", how, detail=detail, repeatable=True
            ),
            Measurement(
                "peak_memory_above_floor_bytes",
                peak - floor,
                "bytes",
                "measured",
                f"{how}; less the {floor / 1e6:.0f} MB it takes before it loads the file",
                detail=detail,
                repeatable=True,
            ),
        )


EVALUATOR = Memory()
