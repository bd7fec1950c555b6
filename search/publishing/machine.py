"""Figures of the machine that searches, as MLflow's own monitors take them (with psutil)."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec

from search.publishing.publish import Publisher

DISABLED = ("false", "0")


class Machine:
    """Takes a sample every ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`` seconds (10)."""

    def __init__(self) -> None:
        """Does nothing where psutil is missing, or the person has switched it off."""
        self._monitors = []
        asked = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
        self._interval_s = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or 10)
        self._next = time.monotonic()
        if find_spec("psutil") is None or asked.lower() in DISABLED:
            return
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        if find_spec("pynvml") is not None:
            from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

            try:
                self._monitors.append(GPUMonitor())
            except (ImportError, RuntimeError):  # no driver, or no GPU
                print("GPUs are not among the system metrics")
        for monitor in self._monitors:  # loads are since the look before: the first says nothing
            monitor.collect_metrics()
            monitor.clear_metrics()

    def publish(self, publisher: Publisher) -> None:
        """Takes a sample when it is time for one, and publishes it.

        Raises:
            NotPublishedError: the store is away; the sample is lost.
        """
        if not self._monitors or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval_s
        figures: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            figures |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        # Steps go on where a search is resumed: they count from a fixed moment.
        publisher.put_system_metrics(figures, step=round(time.time() / self._interval_s))
