"""Other people's advice is not for the person who searches."""

from __future__ import annotations

import warnings


def quiet_libraries() -> None:
    """Silences warnings of libraries and Optuna's log, in this process."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for package in ("torch", "torch_pruning", "onnxruntime", "optuna", "mlflow"):
        warnings.filterwarnings("ignore", module=package)
