"""The results file of a study: its tables as they are printed, in JSON, and Markdown and LaTeX made from them."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from sparring.report.export import LATEX

SAMPLED = re.compile(r"[\w -]+ \d+")
"""A heading that names a scheduler and network calls, such as "ddim 5" or "one call 1"."""

CROSS = " × "
"""Between the two parts of an arm's name: the arms "hinge × R1" and "hinge × none" make one row of a crossed table."""

IN_WORDS = {
    "area": "mean distance over the training from the first point of the curve on (area under it)",
    "shares": "precision/recall, mean over seeds",
    "accuracy": "share of samples of the class that was asked for, by the classifier of the features",
    "calls": "passes through a network for an image, guidance included; backwards counts two",
    "rare": "share of samples that are among real images and rarer than nine tenths of them",
    "nearness": "distance to the nearest training image, over that of a held-out image (0: copies)",
    "modes": "modes covered",
    "good": "share of points within three standard deviations of a mode",
    "psnr": "PSNR in dB",
    "measures": "what methods and samplers measure of what they are for",
}
"""What a table shows, by its kind."""

MARK = re.compile(r"<!-- table: (?P<words>.+?) -->\n(?P<text>.*?)<!-- end -->", re.DOTALL)
"""A place in a Markdown page that a table fills: `<!-- table: STUDY KIND KEY=VALUE … -->` to `<!-- end -->`."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of one setting, every cell as it is printed: "1.03±0.12" is a mean and a standard deviation over seeds.

    Attributes:
        kind: "distance", "area" (its mean over a training) and "ratio" (to that of a control) in the field's usual
            metric, "shares" for precision/recall, "accuracy" for the share of samples of the class that was asked for,
            "calls" for passes through a network, "rare" for the share of rare samples, "nearness" to training images;
            of points in the plane also "modes" and "good" for the modes covered and the share of good points; "psnr"
            of images that are made from a source; "measures" for what methods and samplers measure of what they are
            for.
        columns: headings, the first that of the arms.
        rows: cells in the order of the columns.
        features: what the distance was measured in; a table of ratios has a column for it.
        control: whose distance a ratio is taken to.
    """

    kind: str
    columns: list[str]
    rows: list[list[str]]
    features: str = ""
    control: str = ""
    split: str = ""
    n: int | None = None
    n_reference: int | None = None
    floor: float | None = None

    def caption(self, setting: str) -> str:
        """What was measured, in one line."""
        parts = [setting]
        if self.kind == "ratio":
            parts.append(f"distance over that of {self.control}, seed by seed")
        else:
            parts += [IN_WORDS[self.kind]] if self.kind in IN_WORDS else []
            parts += [part for part in (self.features, self.split) if part]
        line = ", ".join(parts)
        if self.n is not None:
            line += f"; n = {self.n} against {self.n_reference}"
        return line if self.floor is None else f"{line}, floor {self.floor:.3f}"

    def part(self, arms: Sequence[str] = (), columns: Sequence[str] = (), features: Sequence[str] = ()) -> "Table":
        """The table with these arms, these samplers' columns and these features only; nothing named: all.

        Raises:
            ValueError: one of them is not in the table.
        """
        for named, known in ((arms, [row[0] for row in self.rows]), (columns, self.columns)):
            if missing := [name for name in named if name not in known]:
                raise ValueError(f"the table has no {missing[0]!r}: it has {', '.join(dict.fromkeys(known))}")
        kept = [
            place
            for place, heading in enumerate(self.columns)
            if not columns or heading in columns or not SAMPLED.fullmatch(heading.removeprefix("P/R "))
        ]
        space = self.columns.index("features") if "features" in self.columns else None
        rows = [
            [row[place] for place in kept]
            for row in self.rows
            if (not arms or row[0] in arms)
            and (not features or space is None or row[space].startswith(tuple(features)))
        ]
        return replace(self, columns=[self.columns[place] for place in kept], rows=rows)

    def crossed(self) -> "Table":
        """Arms called "A × B" as a table with a row for each A and a column for each B, each arm at its one sampler.

        Raises:
            ValueError: no arm is called so, or one was measured at several samplers.
        """
        cells: dict[str, dict[str, str]] = {}
        for name, *values in self.rows:
            first, cross, second = name.partition(CROSS)
            known = [x for heading, x in zip(self.columns[1:], values, strict=True) if x and SAMPLED.fullmatch(heading)]
            if cross and len(known) > 1:
                raise ValueError(f"the arm {name!r} has {len(known)} samplers: name one of them with `columns`")
            if cross:
                cells.setdefault(first, {})[second] = known[0] if known else ""
        if not cells:
            raise ValueError(f"no arm is called A{CROSS}B: there are {', '.join(row[0] for row in self.rows)}")
        seconds = list(dict.fromkeys(second for row in cells.values() for second in row))
        rows = [[first, *(row.get(second, "") for second in seconds)] for first, row in cells.items()]
        return replace(self, columns=["", *seconds], rows=rows)

    def best(self) -> set[tuple[int, int]]:
        """Row and column of the smallest distance, or of the highest of what should be high, at each sampler."""
        found = set()
        best = {"distance": min, "area": min, "accuracy": max, "modes": max, "good": max, "psnr": max}.get(self.kind)
        for column, heading in enumerate(self.columns):
            known = {row: value for row, cells in enumerate(self.rows) if (value := mean_of(cells[column])) is not None}
            if best is not None and SAMPLED.fullmatch(heading) and len(known) > 1:
                found |= {(row, column) for row, value in known.items() if value == best(known.values())}
        return found

    def numeric(self) -> list[bool]:
        """Whether a column holds numbers, for each."""
        others = range(1, len(self.columns))
        return [False, *(any(row[column][:1].isdigit() for row in self.rows) for column in others)]

    def markdown(self) -> str:
        """The table in Markdown, the best of each column in bold."""
        best = self.best()
        lines = [
            f"| {' | '.join(self.columns)} |",
            "|".join(["", *("--:" if n else "---" for n in self.numeric()), ""]),
        ]
        for row, cells in enumerate(self.rows):
            shown = [f"**{cell}**" if (row, column) in best else cell for column, cell in enumerate(cells)]
            lines.append(f"| {' | '.join(shown)} |")
        return "\n".join(lines)

    def latex(self) -> str:
        """The table as a LaTeX `tabular` (needs booktabs), the best of each column in bold."""
        places = "".join("r" if numeric else "l" for numeric in self.numeric())
        best = self.best()
        lines = [
            rf"\begin{{tabular}}{{{places}}}",
            r"\toprule",
            " & ".join(name.translate(LATEX) for name in self.columns) + r" \\",
            r"\midrule",
        ]
        for row, cells in enumerate(self.rows):
            shown = [
                rf"\textbf{{{cell.translate(LATEX)}}}" if (row, column) in best else cell.translate(LATEX)
                for column, cell in enumerate(cells)
            ]
            lines.append(" & ".join(shown) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def mean_of(cell: str) -> float | None:
    """The mean in a cell such as "1.03±0.12" or "0.42"; None in any other."""
    number = re.fullmatch(r"(\d[\d.]*)(±.*)?", cell)
    return float(number[1]) if number else None


@dataclass(frozen=True, kw_only=True)
class SettingResults:
    """What a study found on one of its settings.

    Attributes:
        tables: the distances in each feature space, precision and recall, and ratios to each control.
        verdicts: {"name", "verdict", "sentence"} of each arm, in the first of the feature spaces.
    """

    tables: list[Table]
    verdicts: list[dict[str, str]] = field(default_factory=list)

    def table(self, kind: str, **keys: str) -> Table:
        """The first table of a kind; `features` and `control` choose among several.

        Raises:
            ValueError: there is none.
        """
        for table in self.tables:
            if table.kind == kind and all(getattr(table, key).startswith(value) for key, value in keys.items()):
                return table
        wanted = " ".join([kind, *(f"{key}={value!r}" for key, value in keys.items())])
        known = dict.fromkeys(" ".join(filter(None, (t.kind, t.control or t.features))) for t in self.tables)
        raise ValueError(f"there is no table {wanted}: there are {', '.join(known)}")

    def verdicts_in_words(self, arms: Sequence[str] = ()) -> str:
        """A list of the verdicts on these arms; nothing named: all."""
        chosen = [one for one in self.verdicts if not arms or one["name"] in arms]
        return "\n".join(f"- **{one['name']}**, {one['verdict']}. {one['sentence']}" for one in chosen)


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """What a study found: a file of a few kilobytes from which documents are made.

    Attributes:
        command: what was called.
        revision: git revision of the folder in which it was called; None outside of git.
        seeds: of the trainings.
        settings: by the name of the setting.
    """

    name: str
    command: str
    revision: str | None
    seeds: list[int]
    settings: dict[str, SettingResults]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a results file.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            settings = {
                name: SettingResults(tables=[Table(**table) for table in one["tables"]], verdicts=one["verdicts"])
                for name, one in value.pop("settings").items()
            }
            return cls(**value, settings=settings)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a results file of `sparring study` ({error})") from None

    def write(self, path: Path) -> None:
        """Writes the results file, a line for each row of a table."""
        value: dict[str, Any] = asdict(self)
        for setting in value["settings"].values():
            setting["tables"] = [
                {key: entry for key, entry in table.items() if entry not in (None, "")} for table in setting["tables"]
            ]
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(value, indent=1, ensure_ascii=False)
        flat = re.sub(r"\[\n\s+((?:\"[^\"]*\"|-?[\d.]+)(?:,\n\s+(?:\"[^\"]*\"|-?[\d.]+))*)\n\s+\]", _one_line, text)
        path.write_text(flat + "\n", encoding="utf-8")

    def setting(self, name: str | None) -> tuple[str, SettingResults]:
        """A setting with its name; None: the only or first one.

        Raises:
            ValueError: there is no such setting.
        """
        if name is None:
            return next(iter(self.settings.items()))
        if name not in self.settings:
            raise ValueError(f"{self.name} has no setting {name!r}: it has {', '.join(self.settings)}")
        return name, self.settings[name]

    def markdown(self) -> str:
        """All tables and verdicts as a Markdown document."""
        parts = [f"# {self.name}", f"Seeds: {', '.join(map(str, self.seeds))}.", f"    {self.command}"]
        for name, setting in self.settings.items():
            parts.append(f"## {name}")
            for number, table in enumerate(setting.tables):
                parts += [table.caption(name), table.markdown()]
                if number == 0 and setting.verdicts:
                    parts.append(setting.verdicts_in_words())
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """All tables as LaTeX, each below a comment that says what it is."""
        pairs = [(name, table) for name, setting in self.settings.items() for table in setting.tables]
        return "\n\n".join(f"% {table.caption(name)}\n{table.latex()}" for name, table in pairs) + "\n"


def _one_line(found: re.Match[str]) -> str:
    return "[" + re.sub(r",\n\s+", ", ", found[1]) + "]"


def filled(page: str, data: Path) -> str:
    """A Markdown page with every marked place filled from the results files of a folder.

    A place begins with `<!-- table: STUDY KIND -->` and ends with `<!-- end -->`. STUDY is the stem of a results file,
    KIND is distance, area, ratio, shares, accuracy, calls, rare, nearness, modes, good, psnr, measures or verdicts.
    Further words: `setting=NAME`, `control=ARM`, `features=A|B`, `arms=A|B`, `columns=ddim 5|dpm 5` (quoted as in a
    shell), `crossed=yes`, and `caption=no`.

    Raises:
        ValueError: a file, a table, an arm or a column that is not there.
    """

    def table(found: re.Match[str]) -> str:
        words = found["words"]
        try:
            text = _named(words, data)
        except ValueError as error:
            raise ValueError(f"<!-- table: {words} -->: {error}") from None
        return f"<!-- table: {words} -->\n{text}\n\n<!-- end -->"

    return MARK.sub(table, page)


def _named(words: str, data: Path) -> str:
    named = shlex.split(words)
    if len(named) < 2:
        raise ValueError("a place names a study and a kind of table")
    study, kind, *rest = named
    if wrong := [word for word in rest if "=" not in word]:
        raise ValueError(f"`{wrong[0]}` is not KEY=VALUE")
    options = dict(word.split("=", 1) for word in rest)
    allowed = ("setting", "control", "features", "arms", "columns", "crossed", "caption")
    if unknown := [key for key in options if key not in allowed]:
        raise ValueError(f"unknown word {unknown[0]}: there are {', '.join(allowed)}")
    name, setting = StudyResults.read(data / f"{study}.json").setting(options.get("setting"))
    parts = {key: options[key].split("|") for key in ("arms", "columns") if key in options}
    if kind == "verdicts":
        return setting.verdicts_in_words(parts.get("arms", []))
    features = options.get("features", "").split("|") if "features" in options else []
    chosen = {"control": options["control"]} if "control" in options else {}
    if kind != "ratio" and features:
        chosen["features"] = features[0]
    table = setting.table(kind, **chosen).part(**parts, features=features)
    table = table.crossed() if options.get("crossed") == "yes" else table
    caption = [] if options.get("caption") == "no" else [f"{table.caption(name)}\n"]
    return "\n".join([*caption, table.markdown()])


def fill_pages(folder: Path) -> list[Path]:
    """Fills the marked places of every page of a folder from its `data/`; returns the pages that changed.

    Raises:
        ValueError: see `filled`; the folder is missing.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder of Markdown pages")
    texts = {page: page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md"))}
    made = {page: filled(text, folder / "data") for page, text in texts.items()}
    changed = [page for page, text in made.items() if text != texts[page]]
    for page in changed:
        page.write_text(made[page], encoding="utf-8")
    return changed
