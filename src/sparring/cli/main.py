"""The command line, `sparring COMMAND`: finds the command's file beside this one; imports nothing heavy."""

import argparse
import difflib
import sys
from importlib.metadata import version
from typing import NoReturn

from sparring.cli import compare, demo, ema, encoder, evaluate, fit, recipes, sample, search, study, systems
from sparring.cli.terminal import fail

COMMANDS = (systems, recipes, fit, ema, encoder, sample, evaluate, compare, search, study, demo)
DESCRIPTION = """\
Train, tune and distil diffusion models with a discriminator in the loop.

  sparring systems                                       what there is: papers, status, pages
  sparring recipes                                       methods, settings and studies
  sparring fit diffusion --on digits --out runs/base     train a denoiser
  sparring fit adt --on digits --init runs/base          tune it against a discriminator
  sparring ema runs/base --std 0.1 --out runs/short      average a run anew
  sparring sample runs/adt-digits --n 64 --out grid.png  look at it
  sparring evaluate runs/adt-digits --steps 10           measure it
  sparring compare runs/*                                one table, one page
  sparring study smoke                                   arms over seeds: tables, verdicts, a page
  sparring demo                                          all of this on real digits, in minutes
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 2 for a user's mistake, 128 + signal when stopped."""
    try:
        options, rest = parser().parse_known_args(arguments)
        check_known(options, rest)
        options.rest = rest
        return options.command.run(options)
    except ValueError as error:
        return fail(error)
    except KeyboardInterrupt:
        print("sparring: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def check_known(options: argparse.Namespace, rest: list[str]) -> None:
    """Refuses what is left of the arguments unless it may be settings of a recipe, or of what `--with` names."""
    if options.command in (sample, evaluate):
        rest = [word for word in rest if word.startswith("--") and not word.startswith("--with")]
    if rest and options.command is not fit:
        near = difflib.get_close_matches(
            rest[0].lstrip("-").partition("=")[0], set(vars(options)) - {"name", "command"}, 1
        )
        meant = f"did you mean --{near[0]}?" if near else f"see `sparring {options.name} --help`"
        raise ValueError(f"unknown argument {rest[0]}: {meant}")


class OneLine(argparse.ArgumentParser):
    """A parser whose complaints are a ValueError like all others, without its usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}: see `{self.prog} --help`")


def parser() -> argparse.ArgumentParser:
    """Options of every command but the settings of a recipe."""
    layout = dict(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    whole = OneLine(prog="sparring", description=DESCRIPTION, **layout)  # type: ignore[arg-type]
    whole.add_argument("--version", action="version", version=version("sparring"))
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="name")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        about, _, examples = (command.__doc__ or "").partition("\n\n")
        about = " ".join(about.split())
        sub = commands.add_parser(
            name,
            help=about[0].lower() + about[1:].rstrip("."),
            description=about,
            epilog=examples.rstrip(),
            **layout,  # type: ignore[arg-type]
        )
        command.add_arguments(sub)
        sub.set_defaults(command=command)
    return whole


if __name__ == "__main__":
    sys.exit(main())
