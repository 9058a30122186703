"""Writes llms.txt: the pages of docs/ as a list of links, each with its first sentence, for programs that read.

    python docs/llms.py

Format: llmstxt.org. A test holds the file to the pages.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {"": "Start", "guides": "Guides", "methods": "Methods", "samplers": "Samplers", "results": "Results"}
"""Folders of docs/ with their headings; the first holds the pages that lie in no folder."""


def llms() -> str:
    """The text of llms.txt."""
    title, about = re.findall(r"^# (.+)\n\n(.+?)\n\n", (ROOT / "docs/index.md").read_text("utf-8"), re.DOTALL)[0]
    parts = [f"# {title}\n\n> {joined(about)}"]
    for folder, heading in SECTIONS.items():
        told = [(page, summary(page)) for page in sorted((ROOT / "docs" / folder).glob("*.md"))]
        lines = [f"- [{name}]({page.relative_to(ROOT)}){first and f': {first}'}" for page, (name, first) in told]
        parts.append(f"## {heading}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def summary(page: Path) -> tuple[str, str]:
    """The heading of a page and the first sentence of its prose, without links."""
    text = page.read_text("utf-8")
    heading = re.match(r"# (.+)\n", text)
    if heading is None:
        raise ValueError(f"{page} begins with no heading")
    blocks = [block.strip("\n") for block in text[heading.end() :].split("\n\n")]
    prose = next((block for block in blocks if re.match(r"[^\s#|<!-]", block) and not block.startswith("```")), "")
    plain = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", joined(prose)).replace("**", "")
    return heading[1], re.split(r"(?<=\.)\s+(?=[A-Z*`\"(])", plain, maxsplit=1)[0].rstrip(":")


def joined(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    (ROOT / "llms.txt").write_text(llms(), encoding="utf-8")
