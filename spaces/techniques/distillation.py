"""Knowledge distillation: the student learns from the untouched model's logits and features.

Hinton, Vinyals, Dean 2015: cross-entropy with the labels, mixed with the divergence from the
teacher's softened distribution, scaled by the squared temperature. Beside it, that images look
alike to the student where they look alike to the teacher (``features.similarity_loss``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from hardware_profiles import HardwareProfile
from spaces.dimension import Dimension, ParamValue, Real
from spaces.files.features import similarity_loss
from spaces.technique import Hooks, LossInputs, Setting, Technique
from spaces.tracing.network import Network

DEFAULT = {"temperature": 4.0, "weight": 0.7, "features": 1.0}


class Distillation(Technique):
    """Temperature, the share of the teacher's logits in the loss, the weight of its features.

    A weight or share of 0 leaves that part out.
    """

    name = "distillation"
    order = 40

    def dimensions(
        self,
        network: Network,
        profile: HardwareProfile,
    ) -> tuple[Dimension, ...]:
        """Temperature, share and weight."""
        return (
            Real("distillation/temperature", 1.0, 10.0, log=True),
            Real("distillation/weight", 0.0, 1.0),
            Real("distillation/features", 0.0, 10.0),
        )

    def decode(
        self,
        params: Mapping[str, ParamValue],
        network: Network,
        profile: HardwareProfile,
    ) -> Setting:
        """Rounded: differences below these make no other model worth training."""
        setting = {
            "temperature": round(float(params["distillation/temperature"]), 1),
            "weight": round(float(params["distillation/weight"]), 2),
            "features": round(float(params["distillation/features"]), 1),
        }
        return {} if setting == DEFAULT else setting

    def encode(
        self,
        setting: Setting,
        network: Network,
        profile: HardwareProfile,
    ) -> dict[str, ParamValue]:
        """The setting's own values."""
        return {f"distillation/{k}": v for k, v in {**DEFAULT, **setting}.items()}

    def bind(self, setting: Setting) -> Hooks:
        """A loss over student, teacher and labels."""
        values = {**DEFAULT, **setting}

        def loss(batch: LossInputs) -> torch.Tensor:
            return distillation_loss(batch, **values)

        return Hooks(loss=loss)


TECHNIQUE = Distillation()


def distillation_loss(
    batch: LossInputs, temperature: float, weight: float, features: float
) -> torch.Tensor:
    """``(1 - weight) * CE(student, labels) + weight * T^2 * KL(teacher_T || student_T)``.

    Where the batch has features, ``features`` times ``similarity_loss`` is added.
    """
    hard = functional.cross_entropy(batch.student, batch.labels)
    soft = functional.kl_div(
        functional.log_softmax(batch.student / temperature, dim=1),
        functional.log_softmax(batch.teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    loss = (1 - weight) * hard + weight * temperature**2 * soft
    if features and batch.student_features is not None and batch.teacher_features is not None:
        alike = similarity_loss(batch.student_features, batch.teacher_features)
        loss = loss + features * alike
    return loss
