"""What of a run changes and is in every checkpoint, and what never changes and is written once."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparring.methods.method import Method
from sparring.networks.digest import checksum, digest_of
from sparring.networks.frozen import frozen_tensors, moving_tensors
from sparring.training.ema import EMA
from sparring.training.optimizer import Player
from sparring.training.power_ema import PowerAverages
from sparring.training.sharding import shard_like
from sparring.training.watch import Balance, Means, Watch

Groups = dict[str, dict[str, Tensor]]
"""Name of a file in a checkpoint to named tensors."""
REREAD = "read again"


class Run(Protocol):
    """What a checkpoint holds of a trainer, and what it is checked against."""

    method: Method
    ema: EMA
    powers: PowerAverages
    players: list[Player]
    means: Means
    watch: Watch
    balance: Balance | None
    seed: int
    batch_size: int
    world: int
    accumulation: int
    step: int
    seconds: float
    skipped: int
    skipped_in_a_row: int

    def images_so_far(self) -> int: ...

    def count_images_from(self, number: int) -> None: ...


def changing_tensors(method: nn.Module) -> dict[str, Tensor]:
    """Trained parameters, the saved buffers of everything but frozen parts, and moving copies; each under one name."""
    saved = method.state_dict()
    frozen = frozen_tensors(method)
    tensors: dict[str, Tensor] = {name: p for name, p in method.named_parameters() if p.requires_grad}
    tensors |= {name: b for name, b in method.named_buffers() if name in saved and name not in frozen}
    return tensors | moving_tensors(method)


def fixed_tensors(method: Method) -> dict[str, Tensor]:
    """What never changes in a run and is kept in it: teachers, backbones, generated data sets; each under one name.

    Not what a pretrained generator reads again from its folder.
    """
    saved = method.state_dict()
    known = {id(tensor) for tensor in method.generator.reread_tensors().values()}
    tensors = {}
    for name, tensor in frozen_tensors(method).items():
        if name in saved and id(tensor) not in known:
            tensors[name] = tensor
            known.add(id(tensor))
    return tensors


def checksums(method: Method) -> dict[str, int]:
    """A checksum of everything in a method that never changes, by name."""
    return {name: int(checksum(tensor)) for name, tensor in frozen_tensors(method).items()}


def check_frozen(method: Method, before: dict[str, int]) -> None:
    """Makes sure that what is frozen is what it was.

    Args:
        method: what is trained.
        before: its `checksums` when the run started or went on.

    Raises:
        ValueError: something has changed; a resumed run would begin with what it was.
    """
    for name, found in checksums(method).items():
        if before.get(name, found) != found:
            raise ValueError(
                f"`{name}` of {type(method).__name__} is frozen and has changed: a copy that moves must be made with "
                "`moving_copy`, or a resumed run would put it back"
            )


def collect_frozen(method: Method) -> dict[str, Tensor]:
    """`fixed_tensors`, and a digest of what is read again elsewhere."""
    reread = method.generator.reread_tensors()
    return fixed_tensors(method) | ({REREAD: as_tensor(digest_of(reread))} if reread else {})


def as_tensor(digest: bytes) -> Tensor:
    """The bytes as uint8."""
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)


def collect_state(run: Run) -> tuple[Groups, dict[str, Any]]:
    """Everything that a resumed run needs, by role. Random numbers need none: they are a function of the step."""
    changing = changing_tensors(run.method)
    seen = run.images_so_far()
    groups = {
        "generator": strip_prefix("generator.", changing),
        "ema": {k: v for k, v in run.ema.module.state_dict().items() if f"generator.{k}" in changing},
        "discriminator": strip_prefix("discriminator.", changing),
        "method": {k: v for k, v in changing.items() if not k.startswith(("generator.", "discriminator."))},
    }
    groups |= {f"optimizer_{player.role}": player.state() for player in run.players}
    groups |= run.powers.state(set(groups["generator"]))
    state = {
        "step": run.step,
        "seed": run.seed,
        "batch_size": run.batch_size,
        "world": run.world,
        "accumulation": run.accumulation,
        "seconds": run.seconds,
        "images_seen": seen,
        "network_calls": seen / run.batch_size,
        "skipped": run.skipped,
        "skipped_in_a_row": run.skipped_in_a_row,
        "ema_updates": run.ema.updates,
        "means": run.means.state(),
        "watch": run.watch.state(),
        "scales": {p.role: p.scaler.state_dict() for p in run.players if p.scaler is not None},
        "accuracy": run.balance.accuracy if run.balance else None,
    }
    return groups, state


def load_state(run: Run, groups: Groups, state: dict[str, Any]) -> None:
    """Puts a checkpoint back.

    Raises:
        ValueError: a checkpoint of other networks, or of a run with another seed or batch size.
    """
    for name in ("seed", "batch_size"):
        if state[name] != getattr(run, name):
            raise ValueError(f"`{name}={getattr(run, name)}`: the run was started with {state[name]}")
    loaded = {f"generator.{k}": v for k, v in groups.get("generator", {}).items()}
    loaded |= {f"discriminator.{k}": v for k, v in groups.get("discriminator", {}).items()}
    loaded |= groups.get("method", {})
    changing = changing_tensors(run.method)
    copy_into(changing, loaded)
    average = {k: v for k, v in run.ema.module.state_dict().items() if f"generator.{k}" in changing}
    copy_into(average, groups.get("ema", {}))
    for player in run.players:
        player.load_state(groups.get(f"optimizer_{player.role}", {}))
        if player.scaler is not None and player.role in state.get("scales", {}):
            player.scaler.load_state_dict(state["scales"][player.role])
    run.step, run.seconds, run.skipped = state["step"], state["seconds"], state["skipped"]
    run.skipped_in_a_row = state.get("skipped_in_a_row", 0)
    run.ema.updates = state["ema_updates"]
    for group, tensors in run.powers.state(set(strip_prefix("generator.", changing))).items():
        copy_into(tensors, groups.get(group, {}))
    for powers in run.powers.averages:
        powers.updates = state["ema_updates"]
    run.means.load_state(state.get("means", {}))
    if "watch" in state:
        run.watch.load_state(state["watch"])
    if run.balance and state.get("accuracy") is not None:
        run.balance.accuracy = state["accuracy"]
    run.count_images_from(state["images_seen"])


def load_frozen(method: Method, tensors: dict[str, Tensor]) -> None:
    """Puts back what `collect_frozen` gave; generated data sets are empty until then.

    Raises:
        ValueError: tensors of another method, or other weights in the generator's folder.
    """
    for name, tensor in fixed_tensors(method).items():
        if name not in tensors or (tensor.numel() and tensor.shape != tensors[name].shape):
            raise ValueError(f"frozen.safetensors belongs to another method: {name} is missing or has another shape")
        tensor.data = tensors[name].to(tensor.device, tensor.dtype)
    reread = as_tensor(digest_of(method.generator.reread_tensors()))
    if REREAD in tensors and not torch.equal(tensors[REREAD], reread):
        raise ValueError(
            f"the frozen weights in {method.generator.path} are not those that this run started with, "
            "and it holds no copy: put them back, or give their folder with --denoiser.path"
        )


@torch.no_grad()
def copy_into(own: dict[str, Tensor], loaded: dict[str, Tensor]) -> None:
    """Copies tensors of the same names and shapes into `own`, all of them.

    Raises:
        ValueError: names or shapes differ.
    """
    for name in sorted(set(own) ^ set(loaded)):
        raise ValueError(f"checkpoint of another network: {name} is {'missing' if name in own else 'unknown'}")
    for name, tensor in own.items():
        if tensor.shape != loaded[name].shape:
            was, now = tuple(loaded[name].shape), tuple(tensor.shape)
            raise ValueError(f"checkpoint of another network: {name} has the shape {was} and not {now}")
        tensor.copy_(shard_like(loaded[name], tensor))


def strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries below a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
