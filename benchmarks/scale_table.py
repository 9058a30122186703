"""Memory and communication of a training step for large networks, computed from their configurations without memory.

    python benchmarks/scale_table.py             # the table of docs/scaling.md, in seconds
    python benchmarks/scale_table.py --measure   # the U-Net's row against a real trainer, in one and in two processes

Networks are built as fake tensors, which have shapes and no numbers. Activations are what autograd keeps for the
backward pass: the difference of a batch of two and a batch of one, so that what does not grow with the batch (the
half-precision copies of the weights, above all) stands by itself.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

warnings.filterwarnings("ignore")
GIB = 2**30
FLOAT = 4
STATE = {"weights": FLOAT, "gradients": FLOAT, "moments": 2 * FLOAT, "average": FLOAT}
"""Bytes per trained parameter of the generator; weights stay in float32 whatever the precision of the arithmetic."""
PROCESSES = 8


def unet() -> nn.Module:
    """A U-Net of 50 million parameters for 32x32 images, of the kind that is trained on CIFAR-10."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(152, 304, 304, 304),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def dit() -> nn.Module:
    """DiT-XL/2 for 256x256 images, latents of 4x32x32, as diffusers builds it (a time embedder in every block)."""
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=16,
        attention_head_dim=72,
        in_channels=4,
        out_channels=8,
        num_layers=28,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )


def sdxl() -> nn.Module:
    """The U-Net of Stable Diffusion XL for 1024x1024 images in a latent space of 4x128x128."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        cross_attention_dim=2048,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def call(net: nn.Module, batch: int, size: int) -> Tensor:
    """One forward pass on images of the network's own size."""
    time_, name = torch.zeros(batch), type(net).__name__
    if name == "UNet2DModel":
        return net(torch.zeros(batch, 3, size, size), time_).sample
    x = torch.zeros(batch, 4, size, size)
    if name == "DiTTransformer2DModel":
        return net(x, time_.long(), class_labels=torch.zeros(batch, dtype=torch.long)).sample
    text = {"text_embeds": torch.zeros(batch, 1280), "time_ids": torch.zeros(batch, 6)}
    return net(x, time_, encoder_hidden_states=torch.zeros(batch, 77, 2048), added_cond_kwargs=text).sample


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "U-Net 50 M, 32x32": (unet, 32),
    "DiT-XL/2, 256x256": (dit, 32),
    "SDXL U-Net, 1024x1024": (sdxl, 128),
}


def kept_for_backward(net: nn.Module, forward: Callable[[], Tensor], half: bool) -> int:
    """Bytes that autograd keeps after a forward pass, without the parameters; each storage counts once."""
    own = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    sizes: dict[int, int] = {}
    held = []  # so that no storage is freed and its address used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
            held.append(storage)
        return tensor

    cast = torch.autocast("cpu", dtype=torch.bfloat16) if half else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), cast:
        output = forward()
    del output
    return sum(sizes.values())


def activations(build: Callable[[], nn.Module], size: int, half: bool, checkpointing: bool) -> tuple[int, int]:
    """Bytes kept per image, and bytes kept whatever the batch."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        net = build()
        if checkpointing:
            net.enable_gradient_checkpointing()  # type: ignore[operator]
        one, two = (kept_for_backward(net, lambda n=n: call(net, n, size), half) for n in (1, 2))
    return two - one, max(2 * one - two, 0)


def parameters(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def table() -> None:
    """Prints the two tables of docs/scaling.md."""
    print(f"| | {' | '.join(NETWORKS)} |\n|---|{'---|' * len(NETWORKS)}")
    rows: dict[str, list[str]] = defaultdict(list)
    share = (PROCESSES - 1) / PROCESSES
    for build, size in NETWORKS.values():
        p = parameters(build)
        rows["parameters, millions"].append(f"{p / 1e6:.1f}")
        state = p * sum(STATE.values())
        rows["weights, gradients, moments and average, GiB"].append(f"{state / GIB:.2f}")
        rows[f"the same with `sharding: fsdp2` over {PROCESSES}, GiB"].append(f"{state / PROCESSES / GIB:.2f}")
        rows["whole frozen copy (a teacher, a reference), GiB more"].append(f"{FLOAT * p / GIB:.2f}")
        per_image, fixed = activations(build, size, half=False, checkpointing=False)
        rows["activations per image, fp32, GiB"].append(f"{per_image / GIB:.3f}")
        per_image, fixed = activations(build, size, half=True, checkpointing=False)
        rows["activations per image, bf16, GiB"].append(f"{per_image / GIB:.3f}")
        rows["half-precision copies of the weights, bf16, GiB"].append(f"{fixed / GIB:.2f}")
        per_image, _ = activations(build, size, half=True, checkpointing=True)
        rows["activations per image, bf16, `gradient_checkpointing`, GiB"].append(f"{per_image / GIB:.4f}")
        rows[f"sent per step and process, {PROCESSES} processes, GiB"].append(f"{2 * share * FLOAT * p / GIB:.2f}")
        rows["the same with fsdp2, one forward pass, GiB"].append(f"{3 * share * FLOAT * p / GIB:.2f}")
        rows["fsdp2: each further forward pass, GiB more"].append(f"{share * FLOAT * p / GIB:.2f}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


# -- measurement -------------------------------------------------------------------------------------------------------


class Traffic(TorchDispatchMode):
    """Bytes given to each kind of collective operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if function.namespace == "c10d":
            first = arguments[0]
            while isinstance(first, list | tuple):
                first = first[0]
            self.seen[function._opname] += first.numel() * first.element_size()
        return function(*arguments, **(named or {}))


def highest(work: Callable[[], None]) -> int:
    """The most bytes of tensors that were alive at once during some work, above what was alive before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    now = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def trainer(folder: str, batch_size: int, **settings: Any) -> Any:
    """A plain diffusion run of the U-Net on noise."""
    from sparring.data import StoredImages
    from sparring.generators import Denoiser
    from sparring.methods.denoising.diffusion import Diffusion
    from sparring.process import VP
    from sparring.training import Trainer

    data = StoredImages(torch.zeros(64, 3, 32, 32, dtype=torch.uint8))
    method = Diffusion(Denoiser(unet(), VP(), "eps"))
    return Trainer(method, data, out=folder, steps=9, batch_size=batch_size, tracker=None, **settings)


def measured_memory(batch_size: int) -> None:
    """The U-Net's state and activations in one process against the table's numbers."""
    p = parameters(unet)
    run = trainer(tempfile.mkdtemp(), batch_size)
    windows = run.micro_batches()
    run.train_step(next(windows))
    player = run.generator
    state = [*player.parameters, *player.state().values(), *run.ema.module.state_dict().values()]
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in state)
    expected = p * (sum(STATE.values()) - STATE["gradients"])
    print(f"state at rest: {tensors / GIB:.3f} GiB of tensors, {expected / GIB:.3f} GiB computed")
    window = next(windows)
    for half, name in ((False, "fp32"), (True, "bf16")):
        run.alternate.half = torch.bfloat16 if half else None
        kept = kept_for_backward(run.method, lambda: run.alternate.rollout(window[0], -1).prediction.output, half)
        per_image, fixed = activations(unet, 32, half=half, checkpointing=False)
        computed = f"{(batch_size * per_image + fixed) / GIB:.3f} GiB computed"
        print(f"{name}, {batch_size} images: {kept / GIB:.3f} GiB kept for the backward pass, {computed}")
        most = highest(lambda: run.train_step(window))
        print(
            f"{name}, {batch_size} images: {most / GIB:.3f} GiB above rest at the highest point of a step, {computed}"
        )


def measured_traffic(sharding: str) -> None:
    """Bytes given to collective operations in one step of two processes."""
    p = parameters(unet)
    run = trainer(tempfile.mkdtemp(), 2, sharding=sharding)
    windows = run.micro_batches()
    run.train_step(next(windows))
    with Traffic() as traffic:
        run.train_step(next(windows))
    if run.main:
        names = ", ".join(f"{name} {size / GIB:.3f} GiB" for name, size in sorted(traffic.seen.items()))
        print(f"{sharding}: {names} (4 bytes per parameter are {FLOAT * p / GIB:.3f} GiB)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="check the U-Net's row against a real trainer")
    parser.add_argument("--batch_size", type=int, default=16, help="images of the measured step (default: 16)")
    parser.add_argument("--traffic", choices=["none", "fsdp2"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.traffic:
        measured_traffic(options.traffic)
    elif options.measure:
        measured_memory(options.batch_size)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        for sharding in ("none", "fsdp2"):
            subprocess.run([*launcher, __file__, "--traffic", sharding], check=True)
    else:
        table()


if __name__ == "__main__":
    main()
