"""The systems of the package, read from the first lines of their files; nothing is imported and no list is kept.

A system is a file in `methods/FAMILY/` or `samplers/KIND/`, later also in `probes/` and `domains/`. Its docstring
begins with

    NAME: title (authors, arXiv NUMBER).

    Status: proven | unproven | no gain [, and where: a page of docs/results/]
"""

import ast
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("methods", "samplers", "probes", "domains")
STATUSES = ("proven", "unproven", "no gain")
HEADER = re.compile(r"(?P<name>[\w+.-]+(?: [\w+.-]+)?): (?P<title>.+?) \((?P<paper>.+)\)\.\n")


@dataclass(frozen=True)
class System:
    """One file.

    Attributes:
        file: below the package, `methods/tuning/adt.py`.
        name, title, paper: of its first line; empty if that has another form.
        status: one of `STATUSES`, or empty.
    """

    file: str
    name: str
    title: str
    paper: str
    status: str

    @property
    def family(self) -> str:
        return "sampling" if self.file.startswith("samplers/") else Path(self.file).parent.name

    @property
    def recipe(self) -> str:
        """The name to give to `sparring fit`, or to `sparring sample --with`."""
        return Path(self.file).stem

    @property
    def page(self) -> str:
        return f"docs/{self.file.split('/')[0]}/{self.recipe}.md"

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
    return [one for one in found if word.lower() in one.words]


def system(file: Path, root: Path) -> System:
    doc = (ast.get_docstring(ast.parse(file.read_bytes())) or "") + "\n"
    header = HEADER.match(doc)
    name, title, paper = header.group("name", "title", "paper") if header else ("", "", "")
    status = re.search(rf"^Status: ({'|'.join(STATUSES)})\b", doc, re.MULTILINE)
    return System(file.relative_to(root).as_posix(), name, title, paper, status[1] if status else "")


def markdown(found: list[System]) -> str:
    """The systems as a table for README, links from its folder."""
    lines = ["| system | what it is | family | paper | status |", "|---|---|---|---|---|"]
    for one in found:
        paper = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", one.paper)
        lines.append(f"| [{one.name}]({one.page}) | {one.title} | {one.family} | {paper} | {one.status} |")
    return "\n".join(lines)
