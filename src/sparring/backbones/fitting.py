"""How a small network learns its features: from labels, or only from the images."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.backbones.backbone import Backbone
from sparring.data import ImageData
from sparring.data.waiting import Told

TEMPERATURE = 0.2  # of the contrastive loss


def fit_classifier(
    net: Backbone,
    images: Tensor,
    labels: Tensor,
    *,
    validation: tuple[Tensor, Tensor],
    epochs: int = 30,
    lr: float = 5e-3,
    batch_size: int = 128,
    seed: int = 0,
) -> float:
    """Trains `net.logits` by cross entropy and gives its accuracy on `validation`; recipe: default (ours).

    AdamW with a one-cycle rate, targets smoothed by 0.1.

    The same seed gives the same weights; torch's global generator is neither read nor moved, and the flags of the
    parameters and the mode of the net are as before.

    Args:
        net: The net; trained in place on the device where it lies.
        images: [N,C,H,W] in [-1,1].
        labels: [N] int64.
        validation: Held-out images and labels.
        epochs: Passes over the images.
        lr: Peak learning rate.
        batch_size: Images per update.
        seed: Seed of the order of the images.

    Returns:
        Share of `validation` classified correctly, in [0, 1].

    Raises:
        ValueError: A label outside the net's classes.
    """
    num_classes = net.num_classes or 0
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"`num_classes={num_classes}`, but labels run from {int(labels.min())} to {int(labels.max())}")
    device = next(net.parameters()).device

    def loss(rows: Tensor) -> Tensor:
        logits = net.logits(images[rows].to(device))
        return F.cross_entropy(logits, labels[rows].to(device), label_smoothing=0.1)

    what = f"training a classifier on {len(images)} images"
    _descend(net, loss, len(images), what, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
    with torch.no_grad():
        right = [
            net.logits(x.to(device)).argmax(1).cpu() == y.cpu()
            for x, y in zip(validation[0].split(500), validation[1].split(500), strict=True)
        ]
    return float(torch.cat(right).float().mean())


def fit_self_supervised(
    net: Backbone,
    images: Tensor,
    *,
    validation: Tensor,
    epochs: int = 250,
    lr: float = 3e-3,
    batch_size: int = 256,
    seed: int = 0,
) -> float:
    """Trains `net.features` without labels: two random views of an image find each other among those of a batch.

    Source: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR,
    arXiv 2002.05709): two views, a projection head that is thrown away, the NT-Xent loss. The views (`random_views`),
    temperature 0.2, head (one hidden layer of 128 with LayerNorm, 64 outputs) and AdamW with a one-cycle rate: default
    (ours).

    The same seed gives the same weights; torch's global generator is neither read nor moved, and the flags of the
    parameters and the mode of the net are as before.

    Args:
        net: The net; trained in place on the device where it lies.
        images: [N,C,H,W] in [-1,1].
        validation: Held-out images [M,C,H,W], M >= 2.
        epochs: Passes over the images.
        lr: Peak learning rate.
        batch_size: Images per update, each in two views.
        seed: Seed of the head, of the order of the images and of the views.

    Returns:
        Share of the views of `validation` whose nearest other view is of the same image, in [0, 1].
    """
    device = next(net.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = nn.Sequential(nn.Linear(net.dim, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 64)).to(device)
    generator = torch.Generator().manual_seed(seed + 1)

    def projected(batch: Tensor) -> Tensor:
        return head(net.features(random_views(torch.cat([batch, batch]).to(device), generator)))

    def loss(rows: Tensor) -> Tensor:
        return nt_xent(projected(images[rows]), TEMPERATURE)

    what = f"training a self-supervised network on {len(images)} images"
    _descend(net, loss, len(images), what, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed, head=head)
    with torch.no_grad():
        z = torch.cat([projected(batch).unflatten(0, (2, -1)) for batch in validation.split(500)], 1).flatten(0, 1)
        nearest = _similarities(z).argmax(1)
    return float((nearest == torch.arange(len(z), device=device).roll(len(z) // 2)).float().mean())


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Mean cross entropy of finding the other view of the same image by cosine, among all other views of a batch.

    Source: Chen et al. 2020 (arXiv 2002.05709), equation 1.

    Args:
        z: [2B,d]; rows i and B + i are views of the same image.
        temperature: Divides the cosines, > 0.

    Returns:
        Scalar >= 0; ln(2B - 1) if all rows are equal.
    """
    partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return F.cross_entropy(_similarities(z) / temperature, partner)


def _similarities(z: Tensor) -> Tensor:
    """Cosines [n,n] of rows, and -1e4 for each with itself."""
    z = F.normalize(z, dim=1)
    return (z @ z.T).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -1e4)


def random_views(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of each image [B,C,H,W], resized to the whole, turned, lit and noised; default (ours).

    Crop of 50 to 100 % of the area, sides in a ratio of 3:4 to 4:3, its centre anywhere inside and up to 1/16 of the
    side further, edges repeated; turned by up to 0.15 rad; brightness +-0.3; contrast times 0.6 to 1.4 about the mean;
    Gaussian noise of deviation up to 0.1. No mirror image: a mirrored digit is another character. Small grey images
    need these; strong colour changes, which SimCLR has for photographs, would hide what tells drawings apart.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    area, ratio = uniform(0.5, 1.0), uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()  # 1 is the whole side
    x, y = (uniform(-1, 1) * ((1 - side).clamp(min=0) + 1 / 8) for side in (width, height))  # in [-1, 1]
    angle = uniform(-0.15, 0.15)
    rows = (width * angle.cos(), -height * angle.sin(), x, width * angle.sin(), height * angle.cos(), y)
    maps = torch.stack(rows, 1).unflatten(1, (2, 3)).to(images)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    light, contrast, noise = (uniform(*r).to(images).view(n, 1, 1, 1) for r in ((-0.3, 0.3), (0.6, 1.4), (0, 0.1)))
    images = images + light
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * contrast + noise * torch.randn(images.shape, generator=generator).to(images)


def _descend(
    net: nn.Module,
    loss: Callable[[Tensor], Tensor],
    num_rows: int,
    what: str,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    head: nn.Module | None = None,
) -> None:
    """AdamW with a one-cycle rate on `loss(rows)`, over shuffled rows; the net's flags and mode are kept.

    `what` it does is said, with the time that is left.
    """
    parameters = list(net.parameters())
    flags, was_training = [p.requires_grad for p in parameters], net.training
    net.requires_grad_(True).train()
    trained = [*parameters, *(head.parameters() if head is not None else ())]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.05)
    steps = epochs * math.ceil(num_rows / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 1), pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    one_more = Told(what, steps)
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.randperm(num_rows, generator=generator).split(batch_size):
                optimizer.zero_grad()
                loss(rows).backward()
                optimizer.step()
                schedule.step()
                one_more()
    for parameter, flag in zip(parameters, flags, strict=True):
        parameter.requires_grad_(flag).grad = None
    net.train(was_training)


def images_to_learn(data: ImageData) -> tuple[Tensor, Tensor | None]:
    """Images and labels of a data set for a small network to learn from: all of it, or 20 000 of them (ours)."""
    n = None if len(data) <= 20_000 else 20_000
    return data.images(n), data.labels(n)
