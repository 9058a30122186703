"""Derivatives through networks over a plain forward pass: along a direction (MeanFlow, sCM) and of potentials (CAFM).

    python benchmarks/derivatives.py
    python benchmarks/derivatives.py --smoke

Every row is one call on the same batch. `jvp` has no gradient; a slope's gradient goes to all parameters.
"""

from collections.abc import Callable

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from timing import arguments, in_turns, looped, machine, milliseconds, note, publish, ratio, table
from torch import Tensor, nn

from sparring.networks.derivatives import directional, jvp

FORWARD = "forward pass"


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__, repeats=15, argv=argv, batch=(32, "images"), size=(32, "pixels a side"))
    started_on = machine()
    if args.smoke:
        args.repeats, args.batch, args.size = 1, 2, 16
    parts = []
    for name, net in (("U-Net with attention", unet(args.size)), ("DiT", dit(args.size))):
        note(f"{name} …")
        parts.append(costs(name, net.eval(), args.batch, args.size, args.repeats, args.clock))
    publish("derivatives", parts, args, started_on)


def unet(size: int) -> nn.Module:
    return UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def dit(size: int) -> nn.Module:
    return DiTTransformer2DModel(
        sample_size=size,
        patch_size=4,
        in_channels=3,
        out_channels=3,
        num_layers=6,
        num_attention_heads=4,
        attention_head_dim=32,
        num_embeds_ada_norm=10,
    )


def costs(name: str, net: nn.Module, batch: int, size: int, repeats: int, clock: str) -> str:
    """The table of one network."""
    x, dx, t = torch.randn(batch, 3, size, size), torch.randn(batch, 3, size, size), torch.rand(batch)
    labels = torch.zeros(batch, dtype=torch.long) if isinstance(net, DiTTransformer2DModel) else None
    along = [(dx, torch.ones(batch)), (x, torch.ones(batch))]

    def output(x: Tensor, t: Tensor) -> Tensor:
        return net(x, t, class_labels=labels).sample

    def plain() -> None:
        with torch.no_grad():
            output(x, t)

    def trained(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def step() -> None:
            net.zero_grad()
            loss().backward()

        return step

    def slopes(mode: str, create_graph: bool = True) -> Tensor:
        found = directional(lambda x, t: output(x, t).square(), x, t, along, mode=mode, create_graph=create_graph)
        return found[1].square().mean()

    steps = {
        FORWARD: plain,
        "forward and backward": trained(lambda: output(x, t).square().mean()),
        "jvp, forward": lambda: jvp(output, (x, t), (dx, along[0][1])),
        "jvp, reverse": lambda: jvp(output, (x, t), (dx, along[0][1]), mode="reverse"),
        "jvp, difference": lambda: jvp(output, (x, t), (dx, along[0][1]), mode="difference"),
        "two slopes": lambda: slopes("reverse", create_graph=False),
        "two slopes and their gradient": trained(lambda: slopes("reverse")),
        "two intervals and their gradient": trained(lambda: slopes("interval")),
    }
    times = in_turns({step: looped(call) for step, call in steps.items()}, repeats, clock)
    size_of_net = f"{sum(p.numel() for p in net.parameters()) / 1e6:.1f} M parameters"
    rows: list[list[object]] = [[step, milliseconds(times, step), ratio(times, step, FORWARD)] for step in times]
    return table([f"{name}, {size}x{size}, {size_of_net}, batch {batch}, fp32", "ms", "times a forward pass"], rows)


if __name__ == "__main__":
    main()
