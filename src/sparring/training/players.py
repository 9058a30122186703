"""Who trains what: the parameters of both players, by their names in the method."""

from collections.abc import Sequence

from torch import nn

from sparring.methods.method import Method


def trained_by(method: Method) -> dict[str, dict[str, nn.Parameter]]:
    """The trained parameters of each role: "generator" (with `Method.parts`) and, if there is one, "discriminator".

    Raises:
        ValueError: a part that is no attribute of the method; a parameter that both players train, or neither.
    """
    kind = type(method).__name__
    names = {parameter: name for name, parameter in method.named_parameters() if parameter.requires_grad}
    modules = {"generator": [method.generator, *method.parts()]}
    if method.discriminator is not None:
        modules["discriminator"] = [method.discriminator]
    players: dict[str, dict[str, nn.Parameter]] = {}
    owner: dict[nn.Parameter, str] = {}
    for role, its_modules in modules.items():
        players[role] = {}
        for module in its_modules:
            for parameter in module.parameters():
                if not parameter.requires_grad:
                    continue
                if parameter not in names:
                    raise ValueError(
                        f"`parts`: a {type(module).__name__} is no attribute of {kind}: make it one, to be saved"
                    )
                if owner.setdefault(parameter, role) != role:
                    raise ValueError(f"`{names[parameter]}` of {kind} belongs to both players: give it to one of them")
                players[role][names[parameter]] = parameter
    for parameter, name in names.items():
        if parameter not in owner:
            raise ValueError(
                f"`{name}` of {kind} requires gradient and has no player: name its module in `parts`, or freeze it"
            )
    return players


def freeze(method: Method, names: Sequence[str]) -> None:
    """Takes parts of a method out of training.

    Args:
        method: what is trained.
        names: parameters or modules, such as "generator.net.time_embedding".

    Raises:
        ValueError: a name that no trained parameter has or begins with.
    """
    for name in names:
        chosen = [p for own, p in method.named_parameters() if p.requires_grad and is_below(own, name)]
        if not chosen:
            raise ValueError(f"`freeze={name}`: {type(method).__name__} trains nothing of that name")
        for parameter in chosen:
            parameter.requires_grad_(False)


def is_below(name: str, prefix: str) -> bool:
    """Whether a dotted name is the prefix or lies below it."""
    return name == prefix or name.startswith(f"{prefix}.")
