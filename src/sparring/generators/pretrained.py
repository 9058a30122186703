"""The denoiser that a recipe tunes: a run or pipeline folder, with a choice of what of it is trained."""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor

from sparring.generators.denoiser import Denoiser
from sparring.generators.families import Family
from sparring.generators.lineage import lineage
from sparring.generators.loading import load_denoiser
from sparring.networks.adapters import LoRA, Tuning
from sparring.networks.adapters.lora import ATTENTION
from sparring.networks.frozen import frozen_tensors
from sparring.networks.quantized import KINDS, quantize
from sparring.networks.time_blind import keep_blind
from sparring.process import Coupling, Latents


class Pretrained(Denoiser):
    """The denoiser of a run or of a diffusers pipeline folder.

    Args:
        path: run of sparring, or pipeline folder.
        tuning: what of the network is trained; all of it when None.
        frozen: precision of the text encoders and the autoencoder and, under LoRA, of the network's own
            weights; "bf16" halves their memory. "int8" and "nf4", under LoRA only, keep the network's own linear layers
            in 8 or 4 bits, and everything else as "bf16" does.
        condition_dropout: share of labels or captions that are replaced by "none" in denoising training, in [0, 1);
            what guidance needs; None: what the network has set for itself (a DiT: 0.1).
        latent_dim: numbers in a latent z that the network is conditioned on; 0: as in the folder.
        second_time: it takes the length of a step, too, if it does not yet.
        cache: folder in which what frozen encoders make of images and captions is kept, and read again by their
            content instead of being made; the run is the same bit for bit. None: it is made in every step.
        offload: whether text encoders and autoencoder leave the device after use, which costs the time to copy them
            there in every step that needs them; the run is the same bit for bit. None: if there is a `cache`, which
            needs them only for what is not kept yet.
        coupling: which noise goes to which image of a batch in training; independent noise when None.
        allow: further packages whose networks the folder may name.

    Raises:
        ValueError: another `latent_dim` than that of the folder; `cache` or `offload` if nothing is encoded; 8 or 4
            bits without LoRA or linear layers; and what `load_denoiser` refuses.
    """

    def __init__(
        self,
        path: str,
        tuning: Tuning | None = None,
        frozen: Literal["fp32", "bf16", "int8", "nf4"] = "fp32",
        condition_dropout: float | None = None,
        latent_dim: int = 0,
        second_time: bool = False,
        allow: Sequence[str] = (),
        coupling: Coupling | None = None,
        cache: str | None = None,
        offload: bool | None = None,
    ):
        if frozen in KINDS and not isinstance(tuning, LoRA):
            raise ValueError(
                f"`frozen={frozen}`: the network's own weights are frozen under LoRA only; "
                "add `--denoiser.tuning LoRA` or take bf16"
            )
        dtype = torch.float32 if frozen == "fp32" else torch.bfloat16
        loaded = load_denoiser(path, dtype, allow)
        dropout = loaded.condition_dropout if condition_dropout is None else condition_dropout
        known = 0 if loaded.slot is None else loaded.slot.config["latent_dim"]
        if known and latent_dim not in (0, known):
            raise ValueError(
                f"`latent_dim={latent_dim}`: the network in {path} is conditioned on a z of {known} numbers"
            )
        new = 0 if known else latent_dim
        loaded.process.coupling = coupling or loaded.process.coupling
        given = (loaded.net, loaded.process, loaded.prediction, loaded.space, loaded.text, dropout, new)
        own_source = loaded.own_source
        super().__init__(*given, second_time and loaded.time_slot is None, start=loaded.start, own_source=own_source)
        if own_source is not None:
            own_source.requires_grad_(False)
        self.slot = loaded.slot or self.slot
        self.time_slot = loaded.time_slot or self.time_slot
        self.path = path
        self.ancestors = lineage(loaded)
        if cache is not None:
            self.keep(cache)
        if cache is not None if offload is None else offload:
            for part in self._encoders("offload=True"):
                part.offload = True
        if isinstance(tuning, LoRA):
            self.net.to(dtype)
            tuning.attention = ATTENTION if self.text is None else self.text.attention
        if tuning is not None:
            tuning.apply(self.net)
            keep_blind(self.net)
        if frozen in KINDS:
            quantize(self.net, frozen)

    def keep(self, folder: str) -> None:
        for part in self._encoders(f"cache={folder}"):
            part.keep(folder)

    def fit_source(self, images: Tensor, seed: int) -> None:
        """It stays what its network was trained with."""

    def _encoders(self, setting: str) -> list[Latents | Family]:
        """What encodes images and captions; raises ValueError if nothing does and a setting is about it."""
        found = [part for part in (self.space, self.text) if part is not None]
        if not found:
            raise ValueError(
                f"`{setting}`: {type(self.net).__name__} takes images as they are and no captions, so that nothing is "
                "encoded; leave it out"
            )
        return found

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; what is frozen stays in eval mode."""
        super().train(mode)
        for module in self.net.modules():
            trained = [parameter.requires_grad for parameter in module.parameters()]
            if trained and not any(trained):
                module.eval()
        return self

    def reread_tensors(self) -> dict[str, Tensor]:
        tensors = frozen_tensors(self.net)
        if self.space is not None:
            tensors |= {f"vae.{name}": tensor for name, tensor in self.space.vae.state_dict().items()}
        for number, encoder in enumerate(self.text.encoders if self.text is not None else []):
            tensors |= {f"text_encoder {number}.{name}": tensor for name, tensor in encoder.state_dict().items()}
        return tensors
