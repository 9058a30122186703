"""What the contracts share: a method of a recipe on the setting `tiny`, in float64, and the losses of one step."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from sparring.data import Batch, Draws
from sparring.methods import Method
from sparring.recipes import recipe
from sparring.recipes.compose import BESIDE, compose, read
from sparring.training import Trainer
from sparring.training.players import trained_by

ROWS = 6
PHASES = ("rollout", "discriminator", "generator")
CLASSES = "with-classes"


def build(name: str, start: Path, out: Path, *flags: str, tuned: bool = False) -> Trainer:
    """The trainer of a recipe on `tiny`; one that needs a trained generator (or `tuned`) gets `start`.

    If what is trained stands beside the start, and the recipe says on `tiny` that the start has classes, it has them.
    """
    kind = read(name).get("start")
    if kind == BESIDE and "denoiser" in read(name).get("on", {}).get("tiny", {}):
        start = start.with_name(CLASSES)
    tuned = tuned or kind == "trained"
    init = str(start) if tuned or kind == BESIDE else None
    header = {"recipe": name, "setting": "tiny", "init": init, "allow": []}
    return recipe.build(compose(name, "tiny", tuned=tuned), list(flags), out=out, init=init, header=header)


class Case:
    """A method ready for a step: prepared, in float64, its generator a little way from its start."""

    def __init__(self, name: str, start: Path, out: Path, *flags: str, tuned: bool = False):
        trainer = build(name, start, out, *flags, tuned=tuned)
        trainer.method.prepare(trainer.data)
        self.method: Method = trainer.method.double().train()
        device = trainer.device
        random = torch.Generator().manual_seed(0)
        for parameter in self.method.generator.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
                parameter.data += 0.02 * noise.to(device)
        images, labels = trainer.data[list(range(ROWS))]
        self.images = images.double().to(device)
        self.labels = None if labels is None else labels.to(device)
        sources = trainer.data.sources(list(range(ROWS)))
        self.sources = None if sources is None else sources.double().to(device)
        self.paired = trainer.data.paired

    def batch(self, phase: str, draws: Draws | None = None, rows: Tensor | slice = slice(None)) -> Batch:
        """The same images every time, with the draws of one phase of step 0."""
        device = self.images.device
        labels = None if self.labels is None else self.labels[rows]
        index = torch.arange(ROWS, device=device)[rows]
        source = None if self.sources is None else self.sources[rows]
        batch = Batch(
            self.images[rows], labels, draws or Draws(0, phase=phase, device=device), index=index, source=source
        )
        return self.method.generator.embed(batch)

    def losses(self, *batches: Batch) -> dict[str, Tensor]:
        """All losses of one step from batches for each of `PHASES`; nothing is updated."""
        rollout = self.method.rollout(batches[0])
        found = {}
        if self.method.discriminator is not None:
            found |= {f"d/{k}": v for k, v in evaluated(self.method.discriminator_loss(batches[1], rollout)).items()}
        return found | {f"g/{k}": v for k, v in evaluated(self.method.generator_loss(batches[2], rollout)).items()}

    def trained(self, role: str) -> dict[str, Tensor]:
        return dict(trained_by(self.method).get(role, {}))


class PermutedDraws(Draws):
    """Draws whose rows come in another order."""

    def __init__(self, order: Tensor, phase: str, device: torch.device):
        super().__init__(0, phase=phase, device=device)
        self.order = order

    def _local(self, full: Tensor) -> Tensor:
        return full[self.order]


def evaluated(losses) -> dict[str, Tensor]:
    """Losses with the deferred ones called."""
    return {name: value() if callable(value) else value for name, value in losses.items()}


def total(losses) -> Tensor:
    return torch.stack(list(evaluated(losses).values())).sum()


def tensors_in(value) -> list[Tensor]:
    """Every tensor in nested dataclasses, lists and tuples."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        return [t for field in dataclasses.fields(value) for t in tensors_in(getattr(value, field.name))]
    if isinstance(value, list | tuple):
        return [t for item in value for t in tensors_in(item)]
    return []
