"""Self-guided diffusion: guidance by clusters of features that no label taught (Hu et al., arXiv 2210.06462).

Status: proven; on digits boxes have 0.54 and segments 0.52 where no condition has 0.87 and random ones 0.77 and 0.85;
clusters of whole images are as good in the mean, which three seeds do not show (docs/results/sampling.md).

Every training image has a class that was found, and the denoiser is trained as one that is conditioned on classes:

    k_i = cluster of image i by k-means on f(x_i),   L = |x_0 - x_pred(x_t, t, k or none)|^2,   none for a share of rows

f: a frozen self-supervised encoder. Samples draw a cluster by its frequency and are guided by none + w (told - none).
With `Layouts` the condition is a map beside the noisy image: the cluster inside the box of the object ("box"), or the
segment of each place ("pixel"); samples draw the map of a training image.
Fake: the one-step prediction; there is no discriminator. Paper, from its code: clusters of a self-supervised encoder's
features, one-hot, 0.1 left out, w = 2; boxes by LOST and segments by STEGO, as further channels. Ours: small encoders
that are trained on the images themselves, draws by frequency, segments by k-means on the features of all places, and
as box that of the places whose segment, of two, is rarer at the border.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from sparring.backbones import Backbone, freeze, images_to_learn
from sparring.data import Batch, Draws, ImageData
from sparring.data.waiting import counted, told
from sparring.generators import Clusters, Denoiser, Generator, Layouts
from sparring.generators.layouts import in_boxes
from sparring.methods.denoising.diffusion import Diffusion
from sparring.metrics.clusters import MEASURED, adjusted_rand, contingency, k_means
from sparring.process import Times, Weighting
from sparring.rollout import OneStep, one_step

SOURCES = {"image": Clusters, "box": Layouts, "pixel": Layouts}
AT_ONCE = 512  # images
PLACES = 20_000  # by which segments are found


class SelfGuided(Diffusion):
    """Denoising training with clusters as classes.

    Args:
        generator: the denoiser to train, whose own source is `Clusters` or `Layouts`, and some `condition_dropout`.
        encoder: backbone without labels; it is trained on the images first if it needs that, and then frozen.
        clusters: what they are: of "features", the data's own "labels", or "random" ones of equal sizes; controls.
        level: what a condition says: the cluster of the "image"; of `Layouts`, that of the image inside a "box", or the
            segment of each "pixel".
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.

    Raises:
        ValueError: a denoiser with another source, or that leaves out none; an encoder that labels have taught; unknown
            clusters or level. In `size_for`, more clusters than images, labels of other classes, or images that are
            turned while their layouts are not; in `prepare`, an encoder without maps of the layouts' size.
    """

    assigned: Tensor

    def __init__(
        self,
        generator: Denoiser,
        encoder: Backbone,
        *,
        clusters: str = "features",
        level: str = "image",
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        super().__init__(generator, times=times, weighting=weighting)
        if level not in SOURCES:
            raise ValueError(f"`level={level}` is unknown; it is image, box or pixel")
        if not isinstance(generator.own_source, SOURCES[level]) or generator.condition_dropout == 0:
            raise ValueError(
                f"`denoiser.own_source`, `denoiser.condition_dropout`: self-guidance by `level={level}` needs "
                f"sparring.generators.{SOURCES[level].__name__} and a share above 0 (0.1)"
            )
        if clusters not in ("features", "labels", "random"):
            raise ValueError(f"`clusters={clusters}` is unknown; it is features, labels or random")
        if clusters == "labels" and level == "pixel":
            raise ValueError("`clusters=labels` with `level=pixel`: no label says what is at a place; take random")
        if encoder.labelled:
            raise ValueError(
                f"`encoder`: labels have taught {encoder.name}, and its clusters would tell them; use SmallConvNet "
                "with `pretrain=self-supervised`, or another backbone without labels"
            )
        self.clusters, self.level, self.encoder = clusters, level, freeze(encoder)
        self.register_buffer("assigned", torch.zeros(0, dtype=torch.int64))

    def size_for(self, data: ImageData) -> None:
        count = source_of(self.generator).config["count"]
        if count > len(data):
            raise ValueError(f"`own_source.count={count}`: `{data.name}` has only {len(data)} images")
        if self.level != "image" and data.flip:
            raise ValueError(f"`level={self.level}`: layouts are not turned with the images; leave out `data.flip`")
        if self.clusters == "labels" and data.num_classes != count:
            raise ValueError(
                f"`own_source.count={count}` with `clusters=labels`: `{data.name}` has {data.num_classes or 'no'} "
                "classes; set it, and the network's `code_dim`, to that"
            )
        self.assigned = self.assigned.new_zeros(len(data))

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Trains the encoder if it needs that, and finds the cluster of every image."""
        super().prepare(data, seed)
        source = source_of(self.generator)
        if self.encoder.needs_images and (self.clusters == "features" or self.level != "image"):
            self.encoder.prepare(images_to_learn(data)[0], None, seed)
            freeze(self.encoder)
        if self.level != "pixel":
            self.assigned.copy_(self.found(data, seed))
        if isinstance(source, Layouts):
            source.fill(self.layouts(data, seed))
        else:
            source.fill(self.assigned)

    def layouts(self, data: ImageData, seed: int) -> Tensor:
        """The maps [N, h, w] of all images, in the order of the data: segments from 0, and K for nothing."""
        count, _, _ = source_of(self.generator).shape
        if self.level == "box":
            inside = in_boxes(self.segments(data, 2, seed))
            maps = torch.where(inside, self.assigned[:, None, None], count)
        else:
            maps = self.segments(data, count, seed)
        if self.clusters == "random":
            maps = maps[Draws(seed, phase="clusters").uniform((len(data),)).argsort()]
        return maps

    def segments(self, data: ImageData, count: int, seed: int) -> Tensor:
        """Segments [N, h, w] of all places: clusters of the features of up to 20 000 of them, the nearest for each."""
        places = self.places(data)
        flat = places.flatten(0, 2)
        some = flat[Draws(seed, phase="places").uniform((len(flat),)).argsort()[:PLACES].to(flat.device)]
        clusters = k_means(some, count, seed).to(some.device)
        centres = torch.stack([some[clusters == k].mean(0) for k in clusters.unique()])
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in flat.split(PLACES)])
        return nearest.view(places.shape[:3])

    @torch.no_grad()
    def places(self, data: ImageData) -> Tensor:
        """Features [N, h, w, d] of all places of the layouts."""
        size = source_of(self.generator).shape[1:]
        found = []
        for images in self.all_images(data):
            maps = {tuple(one.shape[2:]): one for one in self.encoder.maps(images)}
            if size not in maps:
                raise ValueError(
                    f"`own_source.size={list(size)}`: {self.encoder.name} has maps of "
                    f"{', '.join(f'{height}x{width}' for height, width in maps)}; take one of them"
                )
            found.append(maps[size].movedim(1, -1))
        return torch.cat(found)

    def all_images(self, data: ImageData) -> Iterator[Tensor]:
        """All images, some at once, in the order of the data."""
        firsts = range(0, len(data), AT_ONCE)
        for first in told(firsts, f"finding the features of {counted(len(data), 'image')}", len(firsts)):
            yield data[list(range(first, min(first + AT_ONCE, len(data))))][0].to(self.assigned.device)

    def found(self, data: ImageData, seed: int) -> Tensor:
        """Clusters [N] of all images, in the order of the data."""
        count = source_of(self.generator).config["count"]
        if self.clusters == "labels":
            labels = data.labels()
            assert labels is not None
            return labels
        if self.clusters == "random":
            return Draws(seed, phase="clusters").uniform((len(data),)).argsort() % count
        return k_means(self.features(data), count, seed)

    @torch.no_grad()
    def features(self, data: ImageData) -> Tensor:
        """[N, d] of all images, in the order of the data."""
        return torch.cat([self.encoder.features(images) for images in self.all_images(data)])

    def rollout(self, batch: Batch) -> OneStep:
        if batch.index is None:
            raise ValueError(
                "self-guidance has a cluster for each image, and this data does not say which images a batch holds"
            )
        source = source_of(self.generator)
        condition = source.of(batch.index if isinstance(source, Layouts) else self.assigned[batch.index])
        return one_step(self.generator, replace(batch, condition=condition), self.times)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Share of up to 2000 training images in the most frequent class of their cluster, and Rand index; if labelled.

        Training sees no label. Purity grows with the number of clusters by chance, the adjusted Rand index does not.
        Segments are not of images, and have neither.
        """
        if self.level == "pixel":
            return {}
        rows = list(range(min(len(data), MEASURED)))
        labels = data[rows][1] if data.num_classes is not None else None
        if not isinstance(labels, Tensor):
            return {}
        table = contingency(self.assigned[rows].cpu(), labels, source_of(self.generator).config["count"])
        return {"purity": float(table.max(1).values.sum() / len(rows)), "rand": adjusted_rand(table)}


def source_of(generator: Denoiser) -> Clusters | Layouts:
    """Its own source."""
    source = generator.own_source
    assert isinstance(source, Clusters | Layouts)
    return source
