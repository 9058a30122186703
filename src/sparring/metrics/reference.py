"""Fakes against a reference: every number with its n, its features and its floor."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.backbones import Backbone
from sparring.metrics import cache as store
from sparring.metrics import classes
from sparring.metrics.extract import ImageBatches, extract_both
from sparring.metrics.frechet import Gaussian, frechet_between, frechet_interval, frechet_resamples
from sparring.metrics.kernel import kernel_distance
from sparring.metrics.moments import Moments
from sparring.metrics.neighbours import manifolds, memorisation, radii
from sparring.runs.results import Floor, Result

Images = Tensor | ImageBatches | Iterable[Tensor]
_NEIGHBOURS = (3, 5)  # precision and recall, density and coverage


_BOOTSTRAP_DIM = 128  # up to here 50 resamples of the Frechet distance take about as long as the rest


class Reference:
    """Real images seen through one feature network, their statistics computed once, to measure fakes against.

    Args:
        images: Real images [n, C, H, W] in [-1, 1] that no model was trained on, or an iterable of such batches.
        features: The feature network; any other module goes into a `Wrapped`.
        train: The images that the models were trained on: for the floor (train against reference) and for memorisation.
        alike: Whether those are of the same classes as `images`; if not, the floor is that of halves of `images`.
        cache: Folder to keep the statistics in, found again by a fingerprint of the images, the preprocessing and the
            network; None: none. Needs images as tensors or `ImageBatches`.
        batch_size: Images per pass through the network.
    """

    def __init__(
        self,
        images: Images,
        features: Backbone,
        *,
        train: Images | None = None,
        alike: bool = True,
        cache: str | Path | None = None,
        batch_size: int = 256,
    ) -> None:
        self.features = features
        self.batch_size = batch_size
        self.alike = alike
        if cache is None:
            state = self._statistics(images, train)
        else:
            key = self._fingerprint(images, train, cache)
            state = store.load(cache, "reference", key) or {}
            if not state:
                state = self._statistics(images, train)
                store.save(cache, "reference", key, state, features=self.name, n=len(state["real"]))
        tensors = [*features.parameters(), *features.buffers()]
        device = tensors[0].device if tensors else state["real"].device
        self._real, self._radii = state["real"].to(device), state["radii"]
        self._logits, self._train = state.get("logits"), state["train"].to(device) if "train" in state else None
        self._gaussian = Gaussian(state["mean"], state["factor"])
        self._floors: dict[int, Floor] = {}

    def _statistics(self, images: Images, train: Images | None) -> dict[str, Tensor]:
        """All that is computed once, as tensors."""
        real, logits = extract_both(self.features, images, batch_size=self.batch_size)
        if len(real) <= max(_NEIGHBOURS):
            raise ValueError(f"the reference has {len(real)} images, expected at least {max(_NEIGHBOURS) + 1}")
        gaussian = Gaussian.of(Moments.of(real))
        state = {"real": real, "radii": radii(real, _NEIGHBOURS), "mean": gaussian.mean, "factor": gaussian.factor}
        if logits is not None:
            state["logits"] = logits
        if train is not None:
            state["train"] = extract_both(self.features, train, batch_size=self.batch_size)[0]
        return state

    def _fingerprint(self, images: Images, train: Images | None, cache: str | Path) -> str:
        if not isinstance(images, Tensor | ImageBatches) or not isinstance(train, Tensor | ImageBatches | None):
            raise ValueError(f"`cache={cache}` needs images as tensors: give them so, or leave the cache out")
        return store.fingerprint(images, train, store.of_backbone(self.features))

    def __len__(self) -> int:
        return len(self._real)

    def evaluate(
        self,
        images: Images,
        *,
        labels: Tensor | None = None,
        bootstrap: int | None = None,
        floor: bool = True,
        pairs: int = 8,
    ) -> Result:
        """All numbers of fakes against this reference; `to_json()` has them as plain floats, ints, strings and lists.

        Args:
            images: Fakes [n, C, H, W] in [-1, 1], or an iterable of such batches.
            labels: Classes [n] that the fakes were asked to be of, for `class_accuracy`; None: none were.
            bootstrap: Number of `frechet_resamples`; 0: no interval (null); None: 50 if d <= 128, else 0.
            floor: Whether to measure reals against reals at the same n too (once per n).
            pairs: Number of closest (fake, training image) pairs to list, if there are training images.

        Returns:
            frechet, frechet_interval, frechet_resamples, kernel, kernel_interval, precision, recall, density, coverage,
            rare_share, n, n_reference, features;
            floor: the same distances and shares of reals at the same n, its own n, and where they come from;
            with logits and labels: class_accuracy;
            with logits: features_accuracy, class_histogram and class_histogram_reference (counts), class_coverage,
                rarest_class, inception_score;
            with training images: memorisation, train_share, train_share_expected, closest_pairs
                (see `neighbours.memorisation`).
        """
        fake, logits = extract_both(self.features, images, batch_size=self.batch_size)
        if len(fake) <= max(_NEIGHBOURS):
            raise ValueError(
                f"{len(fake)} fakes, expected at least {max(_NEIGHBOURS) + 1}; a stable number needs hundreds"
            )
        if bootstrap is None:
            bootstrap = 50 if fake.shape[1] <= _BOOTSTRAP_DIM else 0
        measured = _measure(fake, self._real, self._gaussian, self._radii)
        drawn = frechet_resamples(fake, self._gaussian, resamples=bootstrap) if bootstrap else None
        more: dict[str, Any] = {"resize": self.features.resize}
        if logits is not None and self._logits is not None:
            histogram, expected = classes.class_histogram(logits), classes.class_histogram(self._logits)
            measured["class_coverage"] = classes.class_coverage(histogram, expected)
            measured["rarest_class"] = classes.rarest_class(histogram, expected)
            if labels is not None:
                measured["class_accuracy"] = classes.class_accuracy(logits, labels)
            more["class_histogram"] = histogram.tolist()
            more["class_histogram_reference"] = expected.tolist()
            more["features_accuracy"] = self.features.accuracy
            more["inception_score"] = classes.inception_score(logits)
        if self._train is not None:
            copies = memorisation(fake, self._train, self._real, pairs=pairs)
            measured |= {name: getattr(copies, name) for name in ("memorisation", "train_share", "closest_pairs")}
            more["train_share_expected"] = copies.train_share_expected
        return Result(
            **measured,
            frechet_interval=None if drawn is None else frechet_interval(measured["frechet"], drawn),
            frechet_resamples=None if drawn is None else drawn.tolist(),
            n=len(fake),
            n_reference=len(self._real),
            features=self.name,
            floor=self.floor(len(fake)) if floor else None,
            more=more,
        )

    def floor(self, n: int) -> Floor:
        """What n reals score: training images against the reference, or one half of the reference against the other.

        A random choice of n training images (all, if there are fewer: its `n` says how many); without training
        images of the same classes, the two halves of the reference, at most n of the one against the whole other.
        """
        if n not in self._floors:
            shuffle = torch.Generator().manual_seed(0)
            if self._train is not None and self.alike:
                rows = torch.randperm(len(self._train), generator=shuffle)[:n]
                real, fake, source = self._real, self._train[rows.to(self._train.device)], "train"
                if len(fake) <= max(_NEIGHBOURS):
                    return Floor(n=len(fake), source=source)
                numbers = _measure(fake, real, self._gaussian, self._radii)
            else:
                rows = torch.randperm(len(self._real), generator=shuffle).to(self._real.device)
                half = len(rows) // 2
                real, fake, source = self._real[rows[:half]], self._real[rows[half:][:n]], "halves of the reference"
                if min(len(real), len(fake)) <= max(_NEIGHBOURS):
                    return Floor(n=len(fake), source=source)
                numbers = _measure(fake, real, Gaussian.of(Moments.of(real)), radii(real, _NEIGHBOURS))
            self._floors[n] = Floor(**numbers, n=len(fake), source=source)
        return self._floors[n]

    @property
    def name(self) -> str:
        """The name of the features."""
        return self.features.name


def _measure(fake: Tensor, real: Tensor, gaussian: Gaussian, real_radii: Tensor) -> dict[str, Any]:
    kernel = kernel_distance(fake, real)
    return {
        "frechet": frechet_between(Gaussian.of(Moments.of(fake)), gaussian),
        "kernel": kernel.value,
        "kernel_interval": kernel.interval,
        **asdict(manifolds(real, fake, real_radii, radii(fake, _NEIGHBOURS[:1]))),
    }
