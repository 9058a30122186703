"""The guiders of diffusers in our sampler: `sampler(16, 20, using=[DiffusersGuider(guider)])`."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Prediction
from sparring.generators.level import Level
from sparring.generators.predictor import Intervention, Predictor, none_and_told

MIXED = ["pred_cond", "pred_uncond"]


class DiffusersGuider(Intervention):
    """A guider of diffusers that mixes the outputs with and without the condition, on the network's own output.

    Args:
        guider: an object of `diffusers.guiders`, such as `ClassifierFreeZeroStarGuidance(3.0)`; left as it is. Its
            `start` and `stop` are shares of the network calls.

    Raises:
        ValueError: one that needs further passes through a changed network (skipped layers, perturbed attention).
    """

    place = "mix"
    needs_none = True

    def __init__(self, guider: Any):
        changed = [name for name in vars(guider) if name.endswith("_hook_names")]
        if guider._input_predictions != MIXED or changed:
            raise ValueError(
                f"`guider`: a {type(guider).__name__} needs more than the outputs with and without the condition"
            )
        self.guider = guider

    @property
    def label(self) -> str:
        return type(self.guider).__name__

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        guider = deepcopy(self.guider)

        def guided(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            guider.set_state(level.call, level.calls, level.model_time)
            guider.prepare_inputs({"x_t": (x_t, x_t)})
            if guider.num_conditions == 1:
                return inner(x_t, level, condition)
            none, told = none_and_told(inner, denoiser, x_t, level, condition)
            return replace(told, output=guider.forward(pred_cond=told.output, pred_uncond=none.output).pred)

        return guided
