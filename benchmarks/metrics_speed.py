"""Speed and memory of the metrics: Frechet and kernel distance against torchmetrics, and neighbours at n = 50,000.

    python benchmarks/metrics_speed.py                      # all parts, one thread
    python benchmarks/metrics_speed.py --parts neighbours --n-neighbours 50000

Seconds are medians over interleaved repeats: wall, and the process's own (which other work on the machine does not
lengthen as much). Both sides get the same features; "network" rows also pass the images through it.
"""

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from sparring.backbones import SmallConvNet, Wrapped
from sparring.metrics import FeatureStream
from sparring.metrics.frechet import Gaussian, frechet_between, frechet_of_features
from sparring.metrics.kernel import KernelMoments, kernel_distance
from sparring.metrics.moments import Moments
from sparring.metrics.neighbours import manifolds, radii

BATCH = 250


class OfBytes(nn.Module):
    """A network for torchmetrics: takes uint8, as its image metrics hand over."""

    def __init__(self, net: nn.Module, dim: int) -> None:
        super().__init__()
        self.net, self.num_features = net, dim

    def forward(self, images: Tensor) -> Tensor:
        return getattr(self.net, "features", self.net)(images.float() / 127.5 - 1)


class Kept(nn.Module):
    """Features that were computed before: what is measured is the statistics alone."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, rows: Tensor) -> Tensor:
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["distances", "memory", "neighbours"])
    parser.add_argument("--n", type=int, default=10_000, help="images on each side")
    parser.add_argument("--n-neighbours", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    if args.child:
        child(args.child, args.n)
        return
    print(f"torch {torch.__version__}, {args.threads} thread(s), n = {args.n} on each side\n")
    if "distances" in args.parts:
        distances(args.n, args.repeats)
    if "memory" in args.parts:
        memory([args.n, 4 * args.n], args.threads)
    if "neighbours" in args.parts:
        print("| neighbours, both sides n | d | wall s | process s | peak MB above start |\n|--:|--:|--:|--:|--:|")
        print(run_child("neighbours 64", args.n_neighbours, args.threads), flush=True)


def distances(n: int, repeats: int) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance
    from torchmetrics.wrappers import FeatureShare

    def theirs(net: nn.Module, real: Tensor, fake: Tensor, *, share: bool = False) -> list[float]:
        metrics = [FrechetInceptionDistance(net), KernelInceptionDistance(net)]
        group = FeatureShare(metrics) if share else None
        for images, is_real in ((real, True), (fake, False)):
            for batch in images.split(BATCH):
                for metric in [group] if group is not None else metrics:
                    metric.update(batch, real=is_real)
        return [float(metrics[0].compute()), float(metrics[1].compute()[0])]

    def stream(features: Wrapped, real: Tensor, fake: Tensor) -> list[float]:
        sides = []
        for images in (fake, real):
            sides.append(FeatureStream(features))
            for batch in images.split(BATCH):
                sides[-1].update(batch.float() / 127.5 - 1)
        found = sides[0].distances(sides[1])
        return [found["frechet"], found["kernel"]]

    def sums(real: Tensor, fake: Tensor) -> list[float]:
        """What a stream keeps, over the same batches."""
        sides = [(Moments(rows.shape[1]), KernelMoments(rows.shape[1])) for rows in (fake, real)]
        for side, rows in zip(sides, (fake, real), strict=True):
            for batch in rows.split(BATCH):
                for kept in side:
                    kept.update(batch)
        frechet = frechet_between(Gaussian.of(sides[0][0]), Gaussian.of(sides[1][0]))
        return [frechet, sides[0][1].distance(sides[1][1])]

    def with_interval(real: Tensor, fake: Tensor) -> list[float]:
        """What `Reference.evaluate` does with kept features."""
        return [frechet_of_features(fake, real), kernel_distance(fake, real).value]

    print("| features | torchmetrics: wall s, process s | ours | ratio (wall, process) | Frechet | kernel |")
    print("|---|--:|--:|--:|--:|--:|")
    generator = torch.Generator().manual_seed(0)

    def report(name: str, theirs_: Callable[[], list[float]], ours: Callable[[], list[float]], repeats: int) -> None:
        (slow, a), (fast, b) = timed([theirs_, ours], repeats)
        print(
            f"| {name} | {slow[0]:.2f}, {slow[1]:.2f} | {fast[0]:.2f}, {fast[1]:.2f} "
            f"| {slow[0] / fast[0]:.1f}, {slow[1] / fast[1]:.1f} "
            f"| {a[0]:.5g}, {b[0]:.5g} | {a[1]:.4g}, {b[1]:.4g} |",
            flush=True,
        )

    for dim in (64, 2048):
        mix = torch.randn(dim, dim, generator=generator) / dim**0.5
        real = (torch.randn(n, dim, generator=generator) @ mix).relu()
        fake = (torch.randn(n, dim, generator=generator) @ mix * 1.1).relu()
        for name, ours in (("sums of a stream", sums), ("with the kernel's interval", with_interval)):
            if dim < 1000 or ours is with_interval:
                report(
                    f"kept, d = {dim}, {name}",
                    lambda dim=dim, real=real, fake=fake: theirs(Kept(dim), real, fake),
                    lambda ours=ours, real=real, fake=fake: ours(real, fake),
                    repeats if dim < 1000 else 1,
                )
    net = SmallConvNet(in_channels=3, pretrain="none").eval()
    features = Wrapped(net=net, name="random")
    images = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    blurred = nn.functional.avg_pool2d(images.float(), 3, 1, 1).round().to(torch.uint8)
    for share in (False, True):
        report(
            f"network, 32 px, d = 64{', FeatureShare' if share else ''}",
            lambda share=share: theirs(OfBytes(net, 64).eval(), images, blurred, share=share),
            lambda: stream(features, images, blurred),
            repeats,
        )


def timed(calls: list[Callable[[], list[float]]], repeats: int) -> list[tuple[tuple[float, float], list[float]]]:
    """Medians of wall and process seconds, and the numbers, of calls that take turns."""
    walls: list[list[float]] = [[] for _ in calls]
    own: list[list[float]] = [[] for _ in calls]
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for i, call in enumerate(calls):
            wall, process = time.perf_counter(), time.process_time()
            with torch.no_grad():
                found[i] = call()
            walls[i].append(time.perf_counter() - wall)
            own[i].append(time.process_time() - process)
    return [((median(w), median(o)), f) for w, o, f in zip(walls, own, found, strict=True)]


def memory(ns: list[int], threads: int) -> None:
    print("\n| Frechet and kernel of a stream of 32 px images | n | peak MB above start |\n|---|--:|--:|")
    for side in ("ours", "torchmetrics"):
        for n in ns:
            print(run_child(f"stream {side}", n, threads), flush=True)
    print()


def run_child(name: str, n: int, threads: int) -> str:
    """A line of a table from a process of its own, so that peaks of memory do not mix."""
    command = [sys.executable, str(Path(__file__)), "--child", name, "--n", str(n), "--threads", str(threads)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def child(name: str, n: int) -> None:
    kind, which = name.split()
    generator = torch.Generator().manual_seed(0)
    if kind == "neighbours":
        dim = int(which)
        real, fake = torch.randn(n, dim, generator=generator), torch.randn(n, dim, generator=generator) * 1.05
        radii(real[:100])
        start, wall, process = peak(reset=True), time.perf_counter(), time.process_time()
        manifolds(real, fake, radii(real), radii(fake, (3,)))
        seconds = f"{time.perf_counter() - wall:.1f} | {time.process_time() - process:.1f}"
        print(f"| {n} | {dim} | {seconds} | {peak() - start:.0f} |")
        return
    net = SmallConvNet(in_channels=3, widths=(8, 32, 64), pretrain="none").eval()
    if which == "ours":
        features = Wrapped(net=net, name="random")
        streams = [FeatureStream(features), FeatureStream(features)]
        update = lambda side, batch: streams[side].update(batch.float() / 127.5 - 1)  # noqa: E731
        finish = lambda: streams[0].distances(streams[1])  # noqa: E731
    else:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        metrics = [make(OfBytes(net, 64).eval()) for make in (FrechetInceptionDistance, KernelInceptionDistance)]
        update = lambda side, batch: [m.update(batch, real=bool(side)) for m in metrics]  # noqa: E731
        finish = lambda: [m.compute() for m in metrics]  # noqa: E731
    batch = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        for side in (0, 1):
            update(side, batch)
        start = peak(reset=True)
        for _ in range(n // BATCH - 1):
            for side in (0, 1):
                update(side, torch.randint(0, 256, batch.shape, generator=generator, dtype=torch.uint8))
        finish()
    print(f"| {which} | {n} | {peak() - start:.0f} |")


def peak(*, reset: bool = False) -> float:
    """Largest resident memory of this process in MB, since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
