"""Plugged guide: plug-and-play diffusion distillation (Hsiao et al., arXiv 2406.01954).

Status: proven at weight 2 on digits, in place of guidance for 0.56 of its passes; it overshoots at 4
(docs/results/sampling.md).

A small network, trained by `sparring fit plug_guide --init RUN`, adds maps in the decoder of the sampled denoiser, so
that a single pass gives what classifier-free guidance of scale w needs two for. The denoiser is the one that it was
trained beside, or one that was tuned from it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.generators import Condition, DenoisingNetwork, Guide, Prediction
from sparring.generators.level import Level
from sparring.generators.predictor import Intervention, Predictor
from sparring.networks.decoder_guide import DecoderMaps
from sparring.runs import RunFolder, is_run
from sparring.samplers.gradients import check_guide, opened_guide
from sparring.samplers.trained import check_trained_beside, check_trained_by


class Plugged(Intervention):
    """Guidance in one pass.

    Args:
        guide: run of `sparring fit plug_guide`, or the guide.
        scale: w, in the range that it learned; 1 is none, and costs no call.
        allow: further packages whose networks the folder may name.
    """

    place = "call"
    needs_none = True  # it stands for the pass without the condition

    def __init__(self, guide: str | Guide, *, scale: float = 2.0, allow: Sequence[str] = ()):
        if scale < 0:
            raise ValueError(f"`scale={scale}` must be 0 or more; 1 is none")
        self.guide = guide
        self.scale = scale
        check_trained_by(guide, "guide", ("plug_guide",))
        low, high = learned(guide)
        if scale != 1 and not low <= scale <= high:
            raise ValueError(f"`scale={scale}`: the guide learned scales of {low:g} to {high:g}; 1 is none")
        self.model = opened_guide(guide, "guide", allow)
        self.share = 0.0

    @property
    def cost(self) -> int:
        """In passes of the sampled network, of which one of the guide is as many as it has weights beside it."""
        return round(self.share * self.model.images_seen)

    def check(self, denoiser: DenoisingNetwork) -> None:
        check_guide(self.model, denoiser, "guide")
        DecoderMaps(denoiser.net).check(self.model.net)
        if not denoiser.takes_labels:
            raise ValueError("`guide` needs classes, and the model that is sampled takes none")
        sizes = [sum(p.numel() for p in net.parameters()) for net in (self.model.net, denoiser.net)]
        self.share = sizes[0] / sizes[1]
        check_trained_beside(self.guide, "guide", denoiser)

    def wrap(self, inner: Predictor, denoiser: DenoisingNetwork) -> Predictor:
        maps = DecoderMaps(denoiser.net)

        def guided(x_t: Tensor, level: Level, condition: Condition) -> Prediction:
            assert isinstance(condition, Tensor)
            scale = torch.full((len(x_t),), self.scale, dtype=x_t.dtype, device=x_t.device)
            with maps.added(self.model(x_t, level.times(len(x_t)), labels=condition, scale=scale)):
                return inner(x_t, level, condition)

        return inner if self.scale == 1 else guided


def learned(guide: str | Guide) -> tuple[float, float]:
    """The least and the largest scale that a run of a guide learned; if it does not say, all."""
    told: dict[str, float] = {}
    if isinstance(guide, str) and is_run(guide):
        told = (RunFolder(guide).read_config().get("method") or {}).get("init_args") or {}
    return told.get("low", 0.0), told.get("high", float("inf"))
