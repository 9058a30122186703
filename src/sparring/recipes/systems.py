"""The systems of the package, read from the first lines of their files; nothing is imported and no list is kept.

A system is a file in `methods/FAMILY/` or `samplers/KIND/`, later also in `probes/` and `domains/`. Its docstring
begins with

    NAME: title (authors, arXiv NUMBER).

    Status: proven | unproven | no gain [, and where: a page of docs/results/]

A system that is a setting of another one's method (a weighting, a process, a network) is a recipe in
`recipes/methods/` whose comment begins like this, with `Page:` and its page behind the status.
"""

import ast
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("methods", "samplers", "probes", "domains")
STATUSES = ("proven", "unproven", "no gain")
RECIPES = "recipes/methods"
HEADER = re.compile(r"(?P<name>[\w+.-]+(?: [\w+.-]+)?): (?P<title>.+?) \((?P<paper>.+)\)\.\n")


@dataclass(frozen=True)
class System:
    """One file.

    Attributes:
        file: below the package, `methods/tuning/adt.py`.
        name, title, paper: of its first line; empty if that has another form.
        status: one of `STATUSES`, or empty.
        family: folder of its method, or "sampling".
        page: what describes it.
    """

    file: str
    name: str
    title: str
    paper: str
    status: str
    family: str
    page: str

    @property
    def recipe(self) -> str:
        """The name to give to `sparring fit`, or to `sparring sample --with`."""
        return Path(self.file).stem

    @cached_property
    def words(self) -> str:
        return " ".join((self.file, self.family, self.name, self.title, self.paper, self.status)).lower()


def systems(word: str = "", root: Path = ROOT) -> list[System]:
    """The systems in whose file name, header or status a word stands, family by family.

    Args:
        word: in any case.
        root: folder with the rooms.
    """
    files = [file for room in ROOMS for file in sorted((root / room).glob("*/[!_]*.py"))]
    found = [system(file, root) for file in files]
    files = [file for file in sorted((root / RECIPES).glob("*.yaml")) if "# Status: " in file.read_text("utf-8")]
    found += [system_of_recipe(file, root) for file in files]
    return [one for one in found if word.lower() in one.words]


def system(file: Path, root: Path) -> System:
    doc = (ast.get_docstring(ast.parse(file.read_bytes())) or "") + "\n"
    header = HEADER.match(doc)
    name, title, paper = header.group("name", "title", "paper") if header else ("", "", "")
    status = re.search(rf"^Status: ({'|'.join(STATUSES)})\b", doc, re.MULTILINE)
    room, folder, _ = (place := file.relative_to(root)).parts
    family, page = "sampling" if room == "samplers" else folder, f"docs/{room}/{file.stem}.md"
    return System(place.as_posix(), name, title, paper, status[1] if status else "", family, page)


def system_of_recipe(file: Path, root: Path) -> System:
    """A recipe whose comment says that it is a system."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    comment = "".join(line.lstrip("# ") or "\n" for line in lines if line.startswith("#"))
    header = HEADER.match(comment)
    name, title, paper = header.group("name", "title", "paper") if header else ("", "", "")
    status = re.search(rf"^Status: ({'|'.join(STATUSES)})\b.*? Page: (\S+)$", comment, re.MULTILINE)
    family = re.search(r"class_path: sparring\.methods\.(\w+)\.", "".join(lines))
    place, found = file.relative_to(root).as_posix(), status.groups() if status else ("", "")
    return System(place, name, title, paper, found[0], family[1] if family else "", found[1])


def markdown(found: list[System]) -> str:
    """The systems as a table for README, links from its folder."""
    lines = ["| system | what it is | family | paper | status |", "|---|---|---|---|---|"]
    for one in found:
        paper = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", one.paper)
        lines.append(f"| [{one.name}]({one.page}) | {one.title} | {one.family} | {paper} | {one.status} |")
    return "\n".join(lines)
