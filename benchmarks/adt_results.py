"""ADT's tables of docs/results.md: arms, ablations and unseen samplers from one baseline, in four feature spaces.

    python benchmarks/adt_results.py digits --seeds 0 1 2 3 4
    python benchmarks/adt_results.py digits-ablations
    python benchmarks/adt_results.py digits-samplers --seeds 0 1 2 3 4
    python benchmarks/adt_results.py fashion16 --images DATA
    python benchmarks/adt_results.py fashion32 --images DATA
    python benchmarks/adt_results.py emoji32 --images DATA

DATA holds fashion_mnist-train-10k.parquet and fashion_mnist-test.parquet (columns image and label), for emoji
noto_emoji-64.parquet (image, codepoints) and the CIFAR-10 weights resnet20-12fca82f.th and resnet56-4bfd9763.th.
"""

from arms import Arm, Table, command

JUDGE = "--method.discriminator.init_args"


def adt(*flags: str, steps: float = 1.0) -> Arm:
    return Arm("adt", list(flags), steps)


def method(**settings: object) -> list[str]:
    return [f"--method.{name}={value}" for name, value in settings.items()]


PAIRED = method(reference="paired")
UNTRAINED = ["--trainer.discriminator_optimizer.lr=1e-12"]  # heads stay as they are drawn: no adversary
TEN = method(num_steps=10, num_grad_steps=2)
ARMS = {
    "plain": Arm("diffusion"),  # equal steps
    "plain-calls": Arm("diffusion", steps=4.2),  # equal network calls
    "adt": adt(),
    "m = 10, k = 2": adt(*TEN, steps=0.5),  # chosen by the ablations for ten calls and more
    "adt-paired": adt(*PAIRED),
    "adt-dpm": adt(*PAIRED, *method(scheduler="dpm", num_steps=10)),
    "adt-random": adt(*PAIRED, f"{JUDGE}.backbone.init_args.pretrain=none"),
}
HALF = {  # on Fashion-MNIST half as many steps; "plain" has twice as many, and "plain-calls" equal network calls
    "plain": Arm("diffusion"),
    "plain-calls": Arm("diffusion", steps=2.1),
    "adt": adt(steps=0.5),
    "adt-paired": adt(*PAIRED, steps=0.5),
}
AT_32 = {name: HALF[name] for name in ("plain", "plain-calls", "adt")}
AT_32["m = 10, k = 2"] = adt(*TEN, steps=0.3)  # as many network calls
CLASSES = {name: ARMS[name] for name in ("plain", "plain-calls", "adt")}
CHANGES: dict[str, list[str]] = {
    "adt, half": [],
    "paired": PAIRED,
    "one-image judge": ["--method.discriminator=ProjectedDiscriminator"],
    "m = 10": method(num_steps=10),
    "m = 10, k = 2": TEN,
    "start from noise": method(start="noise"),
    "no diffusion loss": method(diffusion_weight=0),
    "k = 2": method(num_grad_steps=2),
    "k = 4": method(num_grad_steps=4),
    "last step": method(choose="last"),
    "normalise_coeff, k = 2": method(normalise_coeff=True, num_grad_steps=2),
    "random backbone": [f"{JUDGE}.backbone.init_args.pretrain=none"],
    "frozen judge": UNTRAINED,
    "frozen judge, paired": [*PAIRED, *UNTRAINED],
    "adversarial weight 0.1": method(adversarial_weight=0.1),
    "adversarial weight 2": method(adversarial_weight=2),
}
LIGHT = method(adversarial_weight=0.1, normalise_coeff=True)
EPS = {name: adt(*CHANGES[name], steps=0.5) for name in ("adt, half", "k = 2", "normalise_coeff, k = 2", "last step")}
EPS["adversarial weight 0.1"] = adt(*CHANGES["adversarial weight 0.1"], steps=0.5)
EPS["weight 0.1, normalised"] = adt(*LIGHT, steps=0.5)
EPS["m = 10, weight 0.1, normalised"] = adt(*LIGHT, *method(num_steps=10), steps=0.5)
ABLATIONS = {name: adt(*flags, steps=0.5) for name, flags in CHANGES.items()}
RESNET = [f"{JUDGE}.backbone=CifarResNet", f"{JUDGE}.backbone.path=IMAGES/resnet20-12fca82f.th"]
EMOJI = {"plain": HALF["plain"], "plain-calls": HALF["plain-calls"], "adt": adt(*RESNET, steps=0.5)}
SAMPLERS = [(name, calls) for name in ("ddim", "euler", "dpm", "ddpm") for calls in (5, 10, 20)]
FEW = [("ddim", 5), ("ddim", 10), ("ddim", 20), ("dpm", 5), ("dpm", 10), ("dpm", 20)]

TABLES = {
    "digits": Table("digits", ARMS),
    "digits-ablations": Table("digits", ABLATIONS, plan=FEW, split="validation"),
    "digits-eps": Table("digits-eps", {"plain": ARMS["plain"]} | EPS, plan=FEW, split="validation"),
    "digits-samplers": Table("digits", ARMS, plan=SAMPLERS),
    "fashion16": Table("fashion16", HALF),
    "emoji32": Table("emoji32", EMOJI),
    "fashion32": Table("fashion32", AT_32),
    "digits-classes": Table("digits-classes", CLASSES, plan=FEW),
}

if __name__ == "__main__":
    command(__doc__, TABLES)
