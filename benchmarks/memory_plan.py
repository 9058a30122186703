"""Which GPU is enough for ADT and DMD2 on Stable Diffusion 1.5, XL and 3, computed from their configurations.

    python benchmarks/memory_plan.py             # the tables of docs/scaling.md, in minutes and without their memory
    python benchmarks/memory_plan.py --measure   # the same sum for a small pipeline, against a real trainer

Networks are fake tensors, which have shapes and no numbers, and pass through one step as the recipes make it, in bf16
with gradient checkpointing. ADT: k passes with a graph, the autoencoder a block at a time, DINOv2-small on what comes
out. DMD2: one call of the student, both scores, the head on the fake score's middle, then the update of these. The most
that is alive at once is noted. What lies there all the time is counted from the configurations.
"""

import argparse
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from scale_table import FLOAT, GIB, STATE, sdxl
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    T5Config,
    T5EncoderModel,
)

from sparring.backbones import DINOv2
from sparring.data import Batch, Draws
from sparring.discriminators import Given, SiameseDiscriminator
from sparring.discriminators.heads import Head
from sparring.generators import Denoiser, TextCondition
from sparring.generators.families.stable_diffusion import StableDiffusion
from sparring.generators.families.stable_diffusion_3 import StableDiffusion3
from sparring.generators.families.stable_diffusion_xl import StableDiffusionXL
from sparring.generators.middle import middle_block, middle_channels
from sparring.networks.adapters import LoRA
from sparring.networks.frozen import copy_of_trained
from sparring.networks.trunk import of_images
from sparring.process import VP, Latents

warnings.filterwarnings("ignore")
HALF = 2
GPUS = (8, 12, 16, 24, 32, 40, 48, 80, 141)
SPARE = 1.5  # GiB for the CUDA context, kernels' workspace and what the allocator cannot use


def sd15() -> nn.Module:
    """The U-Net of Stable Diffusion 1.5."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def sd3() -> nn.Module:
    """The transformer of Stable Diffusion 3 medium."""
    return SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=192,
    )


def vae(channels: int = 4) -> Any:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
    )


def clip_large(kind: Any = CLIPTextModel) -> nn.Module:
    return kind(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))


def clip_big() -> nn.Module:
    sizes = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20)
    return CLIPTextModelWithProjection(CLIPTextConfig(**sizes, projection_dim=1280))


def t5() -> nn.Module:
    sizes = dict(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, vocab_size=32128)
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))


def dinov2() -> DINOv2:
    """DINOv2-small, from its configuration instead of its weights."""
    backbone = DINOv2.__new__(DINOv2)
    nn.Module.__init__(backbone)
    sizes = dict(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
    backbone.model = Dinov2Model(Dinov2Config(**sizes))
    backbone.blocks, backbone.image_size, backbone.grid = [2, 5, 8, 11], 224, 16
    backbone.channels, backbone.interpolation, backbone.before = [384] * 4, "bilinear", 1
    return backbone


@dataclass(frozen=True)
class Pipeline:
    """A text-to-image pipeline by its parts.

    Args:
        net: makes the network.
        side: of its latents.
        tokens: number and width of the caption's tokens.
        pooled: width of the caption's embedding, or 0.
        encoders: make the text encoders.
        channels: of the latents.
        family: how the network is called.
    """

    net: Callable[[], nn.Module]
    side: int
    tokens: tuple[int, int]
    pooled: int
    encoders: list[Callable[[], nn.Module]]
    channels: int = 4
    family: Any = StableDiffusion

    def condition(self, n: int) -> TextCondition:
        pooled = torch.zeros(n, self.pooled) if self.pooled else None
        return TextCondition(torch.zeros(n, *self.tokens), pooled, torch.zeros(n, 6))


PROJECTED = lambda: clip_large(CLIPTextModelWithProjection)  # noqa: E731
PIPELINES = {
    "SD 1.5, 512x512": Pipeline(sd15, 64, (77, 768), 0, [clip_large]),
    "SDXL, 1024x1024": Pipeline(sdxl, 128, (77, 2048), 1280, [clip_large, clip_big], family=StableDiffusionXL),
    "SD3 medium, 1024x1024": Pipeline(sd3, 128, (333, 4096), 2048, [PROJECTED, clip_big, t5], 16, StableDiffusion3),
}


def count(*modules: nn.Module, trained: bool | None = None) -> int:
    return sum(
        parameter.numel()
        for module in modules
        for parameter in module.parameters()
        if trained is None or parameter.requires_grad == trained
    )


def at_rest(net: nn.Module, pipe: Pipeline, frozen: nn.Module, heads: nn.Module) -> float:
    """Bytes that lie there all the time: all weights, and moments, averages and copies of what is trained."""
    with torch.device("meta"):
        encoders = count(*(make() for make in pipe.encoders))
    trained = count(net, trained=True)
    return (
        HALF * count(net, trained=False)
        + (sum(STATE.values()) - STATE["gradients"]) * trained
        + HALF * (count(frozen) + encoders)
        + FLOAT * count(heads, trained=False)
        + 24 * count(heads, trained=True)
    )


def one_step(net: Any, pipe: Pipeline, space: Latents, judge: SiameseDiscriminator, batch: int, k: int) -> None:
    """The passes of a step of ADT with a graph, in their order; the sampler's own arithmetic is small beside them."""

    def call() -> Tensor:
        x = torch.zeros(batch, pipe.channels, pipe.side, pipe.side)
        told = pipe.family.arguments(pipe.condition(batch))
        return net(x, timestep=torch.zeros(batch), return_dict=False, **told)[0].float()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = space.decode(sum(call() for _ in range(k)))  # type: ignore[arg-type]
        with torch.no_grad():
            real, reference = (judge.backbone.maps(torch.zeros_like(image)) for _ in range(2))
        fake = judge.backbone.maps(image)
    fixed = [maps.detach() for maps in fake]
    given = Given(reference=reference)
    loss = sum(scores.logits.sum() for scores in judge.scores([real, fixed], given))
    torch.autograd.backward(loss, inputs=[p for p in judge.parameters() if p.requires_grad])
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    loss = judge.logits(fake, given).sum()
    torch.autograd.backward(loss, inputs=trained)
    del image, fake, fixed, loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = call().square().sum()
    torch.autograd.backward(loss, inputs=trained)


class Alive(TorchDispatchMode):
    """Bytes of the tensors that are made within it: `now`, and the `most` that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known[storage] = None
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.freed, storage.nbytes())
        return result

    def freed(self, size: int) -> None:
        self.now -= size


def dmd2_at_rest(net: nn.Module, pipe: Pipeline, frozen: nn.Module) -> float:
    """Bytes that lie there all the time: those of ADT without its heads, a fake score that learns, and the teacher.

    Of student and fake score the trainer keeps what they were before the step, since a later update may fail.
    """
    player = STATE["weights"] + STATE["moments"]
    scores = player + STATE["weights"] + 2 * player
    return at_rest(net, pipe, frozen, nn.Identity()) + scores * count(net, trained=True)


class Reached(Exception):  # noqa: N818
    """The middle of the fake score has been reached."""


def dmd2_step(net: Any, score: Any, teacher: Any, pipe: Pipeline, head: Head, batch: int) -> None:
    """The passes of a step of DMD2 of one call on latents, in their order, each player updated once."""

    def call(net: Any, x: Tensor) -> Tensor:
        told = pipe.family.arguments(pipe.condition(batch))
        return net(x, timestep=torch.zeros(batch), return_dict=False, **told)[0].float()

    def logits(x: Tensor) -> Tensor:
        reached: list[Tensor] = []

        def stop(block: nn.Module, given: Any, output: Any) -> None:
            reached.append(of_images(output))
            raise Reached

        handle = middle_block(score).register_forward_hook(stop)
        with suppress(Reached):
            call(score, x)
        handle.remove()
        seen = reached[0]
        if seen.ndim == 3:  # tokens
            side = round(seen.shape[1] ** 0.5)
            seen = seen.transpose(1, 2).unflatten(2, (side, side))
        return head(seen).float()

    x = torch.zeros(batch, pipe.channels, pipe.side, pipe.side)
    students, scores = ([p for p in one.parameters() if p.requires_grad] for one in (net, score))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = call(net, x)
        with torch.no_grad():
            slope = call(teacher, image) - call(score, image)
        loss = (slope * image).sum() + logits(image).sum()
    torch.autograd.backward(loss, inputs=students)
    image = image.detach()
    del loss
    for parameter in students:
        parameter.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = call(score, image).square().sum() + logits(image).sum() + logits(x).sum()
    torch.autograd.backward(loss, inputs=[*scores, *head.parameters()])


def faked(module: nn.Module) -> Any:
    """A module of the meta device with fake weights on the CPU instead, to be called within a FakeTensorMode."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return module


def plan(pipe: Pipeline, lora: bool, batch: int, k: int) -> tuple[float, float]:
    """GiB at rest, and GiB more at the highest point of a step."""
    with torch.device("meta"):
        net: Any = pipe.net()
        net.enable_gradient_checkpointing()
        if lora:
            LoRA(rank=32).apply(net.to(torch.bfloat16))
        decoder = vae(pipe.channels).to(torch.bfloat16)
        judge = SiameseDiscriminator(backbone=dinov2())
        rest = at_rest(net, pipe, decoder, judge)
    with FakeTensorMode(allow_non_fake_inputs=True):
        decoder.to = lambda _: decoder  # fake weights cannot be moved
        net, space, judge = faked(net), Latents(faked(decoder)), faked(judge)
        with Alive() as alive:
            one_step(net, pipe, space, judge, batch, k)
    return rest / GIB, alive.most / GIB


def dmd2_plan(pipe: Pipeline, lora: bool, batch: int) -> tuple[float, float]:
    """GiB at rest, and GiB more at the highest point of a step of DMD2."""
    with torch.device("meta"):
        net: Any = pipe.net()
        net.enable_gradient_checkpointing()
        if lora:
            LoRA(rank=32).apply(net.to(torch.bfloat16))
        rest = dmd2_at_rest(net, pipe, vae(pipe.channels).to(torch.bfloat16))
        head = Head(channels=middle_channels(net), width=64, out_channels=1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        net, head = faked(net), faked(head)
        score, teacher = copy_of_trained(net), copy_of_trained(net).requires_grad_(False)
        with Alive() as alive:
            dmd2_step(net, score, teacher, pipe, head, batch)
    return rest / GIB, alive.most / GIB


TUNINGS = ((True, "LoRA, rank 32"), (False, "full"))


def tables() -> None:
    """Prints the tables of docs/scaling.md."""
    print(f"| tuning | k | images at once | {' | '.join(PIPELINES)} |\n|---|--:|--:|{'---|' * len(PIPELINES)}")
    for lora, tuning in TUNINGS:
        for k, batch in ((1, 1), (2, 1), (4, 1), (2, 4)):
            cells = [cell(*plan(pipe, lora, batch, k)) for pipe in PIPELINES.values()]
            print(f"| {tuning} | {k} | {batch} | {' | '.join(cells)} |", flush=True)
    print(f"\n| tuning | images at once | {' | '.join(PIPELINES)} |\n|---|--:|{'---|' * len(PIPELINES)}")
    for lora, tuning in TUNINGS:
        for batch in (1, 4):
            cells = [cell(*dmd2_plan(pipe, lora, batch)) for pipe in PIPELINES.values()]
            print(f"| {tuning} | {batch} | {' | '.join(cells)} |", flush=True)


def cell(rest: float, most: float) -> str:
    """GiB at rest and more at the highest point, and the smallest usual GPU."""
    enough = next((gpu for gpu in GPUS if gpu > rest + most + SPARE), None)
    return f"{rest:.1f} + {most:.1f}: {f'{enough} GB' if enough else 'shards'}"


def small() -> nn.Module:
    """A U-Net with cross-attention for latents of 4x16x16, 15 million parameters."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(128, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
    )


SMALL = Pipeline(small, 16, (77, 64), 0, [])


def small_denoiser() -> Denoiser:
    """The small network with adapters, in half precision, with an autoencoder and without text encoders."""
    net: Any = small()
    net.enable_gradient_checkpointing()
    LoRA(rank=32).apply(net.to(torch.bfloat16))
    return Denoiser(net, VP(), "eps", Latents(vae().to(torch.bfloat16)), StableDiffusion.__new__(StableDiffusion))


def small_batch(n: int) -> Batch:
    """Images with their latents and conditions."""
    images, x_0 = torch.zeros(n, 3, 8 * SMALL.side, 8 * SMALL.side), torch.zeros(n, 4, SMALL.side, SMALL.side)
    return Batch(images, draws=Draws(0, step=1, phase="plan"), x_0=x_0, condition=SMALL.condition(n))


def measured(batch: int, k: int) -> float:
    """GiB at the highest point of a real step of ADT with the small network, its start at the noisiest level."""
    from sparring.methods.tuning.adt import ADT

    judge = SiameseDiscriminator(backbone=dinov2())
    method = ADT(small_denoiser(), judge, num_steps=8, num_grad_steps=k, start="noise", warmup_steps=0, ramp_steps=0)
    method.step = 1
    given = small_batch(batch)
    with Alive() as alive:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fake = method.rollout(given)
            losses = method.discriminator_loss(given, fake)
        sum(losses.values()).backward(inputs=[p for p in judge.parameters() if p.requires_grad])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = dict(method.generator_loss(given, fake))
        del fake
        trained = [p for p in method.generator.parameters() if p.requires_grad]
        for name in list(losses):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = losses.pop(name)
                value = value() if callable(value) else value
            value.backward(inputs=trained)
            del value
    return alive.most / GIB


def dmd2_measured(batch: int) -> float:
    """GiB at the highest point of a real step of DMD2 with the small network."""
    from sparring.methods.distillation.dmd2 import DMD2

    method, given = DMD2(small_denoiser()), small_batch(batch)
    players = [[p for p in one.parameters() if p.requires_grad] for one in (method.generator, method.discriminator)]
    with Alive() as alive:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fake = method.rollout(given)
            loss = sum(method.generator_loss(given, fake).values())
        loss.backward(inputs=players[0])
        for parameter in players[0]:
            parameter.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = sum(method.discriminator_loss(given, fake).values())
        loss.backward(inputs=players[1])
    return alive.most / GIB


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="a small network's sum against a real step")
    if parser.parse_args().measure:
        for batch, k in ((1, 1), (1, 4), (4, 1), (4, 4)):
            computed = plan(SMALL, True, batch, k)[1]
            print(f"ADT, batch {batch}, k = {k}: {computed:.3f} GiB computed, {measured(batch, k):.3f} measured")
        for batch in (1, 4):
            computed = dmd2_plan(SMALL, True, batch)[1]
            print(f"DMD2, batch {batch}: {computed:.3f} GiB computed, {dmd2_measured(batch):.3f} measured")
    else:
        tables()
