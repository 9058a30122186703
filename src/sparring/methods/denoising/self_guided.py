"""Self-guided diffusion: guidance by clusters of features that no label taught (Hu et al., arXiv 2210.06462).

Status: unproven.

Every training image has a class that was found, and the denoiser is trained as one that is conditioned on classes:

    k_i = cluster of image i by k-means on f(x_i),   L = |x_0 - x_pred(x_t, t, k or none)|^2,   none for a share of rows

f: a frozen self-supervised encoder. Samples draw a cluster by its frequency and are guided by none + w (told - none).
Fake: the one-step prediction; there is no discriminator. Paper, from its code: clusters of a self-supervised encoder's
features, one-hot, 0.1 left out, w = 2. Ours: small encoders that are trained on the images themselves, draws by
frequency. Its boxes and segment maps, layouts for the network, are not built.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sparring.backbones import Backbone, freeze, images_to_learn
from sparring.data import Batch, Draws, ImageData
from sparring.generators import Clusters, Denoiser, Generator
from sparring.methods.denoising.diffusion import Diffusion
from sparring.metrics.clusters import MEASURED, adjusted_rand, contingency, k_means
from sparring.process import Times, Weighting
from sparring.rollout import OneStep, one_step


class SelfGuided(Diffusion):
    """Denoising training with clusters as classes.

    Args:
        generator: the denoiser to train, whose own source is `Clusters`, and some `condition_dropout`.
        encoder: backbone without labels; it is trained on the images first if it needs that, and then frozen.
        clusters: what they are: of "features", the data's own "labels", or "random" ones of equal sizes; controls.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.

    Raises:
        ValueError: a denoiser with another source, or that leaves out none; an encoder that labels have taught; unknown
            clusters. In `size_for`, more clusters than images, or labels of other classes.
    """

    assigned: Tensor

    def __init__(
        self,
        generator: Denoiser,
        encoder: Backbone,
        *,
        clusters: str = "features",
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        super().__init__(generator, times=times, weighting=weighting)
        if not isinstance(generator.own_source, Clusters) or generator.condition_dropout == 0:
            raise ValueError(
                "`denoiser.own_source`, `denoiser.condition_dropout`: self-guidance needs sparring.generators.Clusters "
                "and a share above 0 (0.1)"
            )
        if clusters not in ("features", "labels", "random"):
            raise ValueError(f"`clusters={clusters}` is unknown; it is features, labels or random")
        if encoder.labelled:
            raise ValueError(
                f"`encoder`: labels have taught {encoder.name}, and its clusters would tell them; use SmallConvNet "
                "with `pretrain=self-supervised`, or another backbone without labels"
            )
        self.clusters, self.encoder = clusters, freeze(encoder)
        self.register_buffer("assigned", torch.zeros(0, dtype=torch.int64))

    def size_for(self, data: ImageData) -> None:
        (count,) = source_of(self.generator).shape
        if count > len(data):
            raise ValueError(f"`own_source.count={count}`: `{data.name}` has only {len(data)} images")
        if self.clusters == "labels" and data.num_classes != count:
            raise ValueError(
                f"`own_source.count={count}` with `clusters=labels`: `{data.name}` has {data.num_classes or 'no'} "
                "classes; set it, and the network's `code_dim`, to that"
            )
        self.assigned = self.assigned.new_zeros(len(data))

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Trains the encoder if it needs that, and finds the cluster of every image."""
        super().prepare(data, seed)
        self.assigned.copy_(self.found(data, seed))
        source_of(self.generator).fill(self.assigned)

    def found(self, data: ImageData, seed: int) -> Tensor:
        """Clusters [N] of all images, in the order of the data."""
        (count,) = source_of(self.generator).shape
        if self.clusters == "labels":
            labels = data.labels()
            assert labels is not None
            return labels
        if self.clusters == "random":
            return Draws(seed, phase="clusters").uniform((len(data),)).argsort() % count
        if self.encoder.needs_images:
            self.encoder.prepare(images_to_learn(data)[0], None, seed)
            freeze(self.encoder)
        return k_means(self.features(data), count, seed)

    @torch.no_grad()
    def features(self, data: ImageData) -> Tensor:
        """[N, d] of all images, in the order of the data."""
        firsts = range(0, len(data), 512)
        rows = [data[list(range(first, min(first + 512, len(data))))][0] for first in firsts]
        return torch.cat([self.encoder.features(images.to(self.assigned.device)) for images in rows])

    def rollout(self, batch: Batch) -> OneStep:
        if batch.index is None:
            raise ValueError(
                "self-guidance has a cluster for each image, and this data does not say which images a batch holds"
            )
        told = source_of(self.generator).of(self.assigned[batch.index])
        return one_step(self.generator, replace(batch, condition=told), self.times)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Share of up to 2000 training images in the most frequent class of their cluster, and Rand index; if labelled.

        Training sees no label. Purity grows with the number of clusters by chance, the adjusted Rand index does not.
        """
        rows = list(range(min(len(data), MEASURED)))
        labels = data[rows][1] if data.num_classes is not None else None
        if not isinstance(labels, Tensor):
            return {}
        table = contingency(self.assigned[rows].cpu(), labels, source_of(self.generator).config["count"])
        return {"purity": float(table.max(1).values.sum() / len(rows)), "rand": adjusted_rand(table)}


def source_of(generator: Denoiser) -> Clusters:
    """Its own source."""
    source = generator.own_source
    assert isinstance(source, Clusters)
    return source
