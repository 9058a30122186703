"""SADM's tables of docs/results.md: arms and controls from one baseline, over seeds, in four feature spaces.

    python benchmarks/sadm_results.py digits --seeds 0 1 2 3 4
    python benchmarks/sadm_results.py digits-curves
    python benchmarks/sadm_results.py digits-scratch
    python benchmarks/sadm_results.py fashion16 --images DATA

    python benchmarks/sadm_results.py "fashion16-moved, full" --images DATA
    python benchmarks/sadm_results.py "fashion16-moved, LoRA" --images DATA --arms "plain, LoRA" "sadm-frozen, LoRA"
    python benchmarks/sadm_results.py emoji32 --images DATA
    python benchmarks/sadm_results.py emoji32-moved --images DATA

DATA holds fashion_mnist-train-10k.parquet and fashion_mnist-test.parquet (columns image and label), for emoji
noto_emoji-64.parquet (image, kind, codepoints), noto_emoji_pairs-64.parquet (source, codepoints) and the CIFAR-10
weights resnet20-12fca82f.th and resnet56-4bfd9763.th.
"""

from dataclasses import replace

from arms import Arm, Table, command

FROZEN = ["--method.mode=frozen"]
JUDGE = "--method.discriminator.init_args"
ENCODER = f"{JUDGE}.encoder.init_args"
NOISE = ["--method.structure_weighting=Sigmoid"]
WEIGHT = "--method.structure_weight"


def frozen(*flags: str) -> Arm:
    return Arm("sadm", [*FROZEN, *flags])


ARMS = {
    "plain": Arm("diffusion"),  # equal network calls
    "plain-long": Arm("diffusion", steps=3.0),  # at least equal wall clock
    "sadm": Arm("sadm"),
    "sadm-frozen": frozen(),
    "sadm-self": frozen(f"{ENCODER}.pretrain=self-supervised"),
    "sadm-random": frozen(f"{ENCODER}.pretrain=none"),
}
CURVES = {
    "plain": Arm("diffusion"),
    "sadm-frozen": frozen(),
    **{f"weight {w}": frozen(f"{WEIGHT}={w}") for w in (0.1, 1.0, 2.0)},
    "matrix 16": frozen(f"{JUDGE}.structure_batch=16"),
    "matrix 4": frozen(f"{JUDGE}.structure_batch=4"),
    "batch 32": frozen("--trainer.batch_size=32"),
    "batch 512": frozen("--trainer.batch_size=512"),
    "noise constant": frozen("--method.structure_weighting=Constant"),
    # the largest weight over noise levels is that of the default, 0.5
    "noise low": frozen(*NOISE, "--method.structure_weighting.bias=2", f"{WEIGHT}=0.07"),
    "noise high": frozen(*NOISE, "--method.structure_weighting.bias=-2", f"{WEIGHT}=3.7"),
    "shared_t": frozen("--method.shared_t=true"),
    "denoiser features": frozen(
        f"{JUDGE}.encoder=sparring.backbones.denoiser_features.DenoiserFeatures", f"{JUDGE}.encoder.path=BASELINE"
    ),
    "sadm": Arm("sadm"),
    "sadm, 4 updates": Arm("sadm", ["--trainer.discriminator_updates=4"]),
    "sadm, no pull": Arm("sadm", [f"{JUDGE}.pull=0"]),
    "sadm, anchor": Arm("sadm", [f"{JUDGE}.pull=0", f"{JUDGE}.anchor=0.01"]),
    "sadm, rate 1e-5": Arm("sadm", ["--trainer.discriminator_optimizer.lr=1e-5"]),
}
THREE = {name: ARMS[name] for name in ("plain", "sadm-frozen", "sadm")}
RESNET = [f"{JUDGE}.encoder=CifarResNet", f"{JUDGE}.encoder.path=IMAGES/resnet20-12fca82f.th"]
EMOJI = {
    "plain": Arm("diffusion"),
    "sadm": Arm("sadm", RESNET),
    "sadm-frozen": frozen(*RESNET),
    "sadm-self": frozen(f"{ENCODER}.pretrain=self-supervised", f"{ENCODER}.in_channels=3"),
}
SCRATCH = [
    *("--method=SADM", f"{WEIGHT}=0.5", "--trainer.discriminator_optimizer.lr=1e-4"),
    *("--method.times=LogNormal", "--method.times.mean=-0.4", "--method.times.std=1.2"),
    *("--method.discriminator=StructureDiscriminator", f"{JUDGE}.encoder=SmallConvNet"),
    *(f"{ENCODER}.in_channels=1", f"{ENCODER}.num_classes=10"),
]
FROM_SCRATCH = {  # the baseline is their control, as many steps from the same weights; "plain-long" has more
    "plain-long": ARMS["plain-long"],
    "scratch, frozen": Arm(None, [*SCRATCH, *FROZEN]),
    "scratch, frozen, later": Arm(None, [*SCRATCH, *FROZEN, "--method.delay_steps=1000"]),
    "scratch, rate 1e-5": Arm(None, [*SCRATCH, "--trainer.discriminator_optimizer.lr=1e-5"]),
}
TUNINGS = {"full": [], "LoRA": ["--denoiser.tuning=LoRA"], "DiffFit": ["--denoiser.tuning=DiffFit"]}
MOVED = [("ddim", 10), ("dpm", 5), ("dpm", 10)]


def moved(name: str, flags: list[str]) -> Table:
    """A way of tuning, plain and with structure, from other classes to these."""
    arms = {f"{one}, {name}": replace(arm, flags=[*arm.flags, *flags]) for one, arm in THREE.items()}
    return Table("fashion16-moved", arms, plan=MOVED)


FEW = [("ddim", 5), ("ddim", 20), ("dpm", 5), ("dpm", 10)]

TABLES = {
    "digits": Table("digits", ARMS),
    "digits-curves": Table("digits", CURVES, plan=FEW, split="validation"),
    "digits-scratch": Table("digits", FROM_SCRATCH),
    "fashion16": Table("fashion16", THREE | {"plain-calls": Arm("diffusion", steps=2.1)}),  # more than equal time
    "fashion32": Table("fashion32", THREE),
    **{f"fashion16-moved, {name}": moved(name, flags) for name, flags in TUNINGS.items()},
    "emoji32": Table("emoji32", EMOJI),
    "emoji32-moved": Table("emoji32-moved", {name: EMOJI[name] for name in THREE}),
    **{name: Table(name, THREE, plan=FEW) for name in ("digits-short", "digits-small", "digits-classes")},
}

if __name__ == "__main__":
    command(__doc__, TABLES)
