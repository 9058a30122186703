"""Synthetic voices: the pitch is what is said, and the envelope tells who says it."""

import math
from copy import copy
from typing import Literal

import torch
from torch import Tensor

from sparring.data.base import StoredImages
from sparring.data.draws import derived_seed

PITCHES = 61  # of the grid on which a pitch is found
SCALE = 0.4  # of the sum of harmonics and envelope, which lies in [-2, 2]
NOISE = 0.02


def content(x: Tensor) -> Tensor:
    """Log spectra [B, 1, bands, frames] less their mean over time: whatever a speaker adds to every frame is gone."""
    return x - x.mean(-1, keepdim=True)


def spoken_by(sources: Tensor, speakers: Tensor) -> Tensor:
    """Sources [B, 1 + S, bands, frames] of `Voices` with other speakers [B] in the place of their own."""
    planes = torch.nn.functional.one_hot(speakers, sources.shape[1] - 1).to(sources)
    return torch.cat([sources[:, :1], planes[:, :, None, None].expand(-1, -1, *sources.shape[2:])], dim=1)


class Voices(StoredImages):
    """Log spectra [1, bands, frames] of harmonic voices, and beside each what is said and who says it.

    `0.4 (h_p(f) + e_s(f))` and noise of deviation 0.02, in which h has bumps at the multiples of the pitch p, smooth
    and random in time, and e_s, the envelope of speaker s, is the cosine of s + 1 half periods, the same in every
    frame. A label is a speaker. The source [1 + speakers, bands, frames] is the `content` of the voice, which no
    envelope changes, and a plane for each speaker that is 1 for the label's and 0 for the others'. All of it is ours.

    Args:
        speakers: how many there are.
        bands: of the spectra.
        frames: of each voice.
        content: "centred", as above; "whole", which is the voice itself, speaker and all; or "shuffled", which is the
            content of another voice (of training; what is held out keeps its own).
        num_samples: size of the fixed sample.
        seed: of the fixed sample.

    Raises:
        ValueError: fewer than 2 speakers, 8 bands, 2 frames or 1 sample; another kind of content.
    """

    def __init__(
        self,
        *,
        speakers: int = 4,
        bands: int = 16,
        frames: int = 16,
        content: Literal["centred", "whole", "shuffled"] = "centred",
        num_samples: int = 2000,
        seed: int = 0,
    ) -> None:
        if speakers < 2 or bands < 8 or frames < 2 or num_samples < 1:
            raise ValueError(
                f"`speakers={speakers}`, `bands={bands}`, `frames={frames}`, `num_samples={num_samples}`: voices need "
                "2 speakers, 8 bands, 2 frames and 1 sample"
            )
        if content not in ("centred", "whole", "shuffled"):
            raise ValueError(f"`content={content}` must be centred, whole or shuffled")
        self.speakers, self.bands, self.frames, self.seed = speakers, bands, frames, seed
        self.content: Literal["centred", "whole", "shuffled"] = content
        self.lowest, self.highest = 3 * bands / 16, 6 * bands / 16
        self._fill("voices", num_samples)

    def _fill(self, name: str, n: int) -> None:
        random = torch.Generator().manual_seed(derived_seed(self.seed, name))
        labels = torch.randint(self.speakers, (n,), generator=random)
        time = torch.linspace(0, 1, self.frames)
        start, end, phase, turns = torch.rand(4, n, 1, generator=random)
        height = start + (end - start) * time + 0.2 * torch.sin(2 * math.pi * (phase + 2 * turns * time))
        pitch = self.lowest * (self.highest / self.lowest) ** height.clamp(0, 1)
        noise = NOISE * torch.randn(n, self.bands, self.frames, generator=random)
        x = (self.spectra(pitch, labels[:, None]).transpose(1, 2) + noise)[:, None]
        said = x if self.content == "whole" else content(x)
        if self.content == "shuffled":
            said = said[torch.randperm(n, generator=random)]
        sources = spoken_by(said.expand(-1, 1 + self.speakers, -1, -1), labels)
        super().__init__(x, labels, name=name, num_classes=self.speakers, sources=sources)

    def spectra(self, pitch: Tensor, speaker: Tensor) -> Tensor:
        """The frames [..., bands] of pitches [...], in bands, and speakers [...], without noise."""
        bands = torch.arange(1, self.bands + 1, dtype=torch.float32)
        harmonics = torch.arange(1, math.ceil(self.bands / self.lowest) + 1) * pitch[..., None]
        width = self.bands / 32
        bumps = torch.exp(-(((bands - harmonics[..., None]) / width) ** 2) / 2).amax(-2)
        envelope = torch.cos(math.pi * (speaker[..., None] + 1) * (bands - 0.5) / self.bands)
        return SCALE * (2 * bumps - 1 + envelope)

    def speech(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Who speaks [B] and at which pitch [B, frames], of images [B, 1, bands, frames]: the least squared error.

        Source: with normal noise this is the most likely of all speakers and of a grid of pitches in each frame.
        """
        grid = torch.linspace(self.lowest, self.highest, PITCHES)
        templates = self.spectra(grid[None, :], torch.arange(self.speakers)[:, None]).to(images)
        frames = images[:, 0].transpose(1, 2)
        errors = templates.square().sum(-1) - 2 * torch.einsum("btf,spf->btsp", frames, templates)
        best, places = errors.min(-1)
        speaker = best.sum(1).argmin(1)
        found = places.gather(2, speaker[:, None, None].expand(-1, self.frames, 1))[:, :, 0]
        return speaker, grid.to(images)[found]

    def holdout(self) -> "Voices":
        """As many other voices, whose sources are their own."""
        other = copy(self)
        other.content = "whole" if self.content == "whole" else "centred"
        other._fill("voices:holdout", len(self))
        return other
