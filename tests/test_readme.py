"""What the README shows works: its Python example runs as printed, with fewer steps."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_example_runs(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert "steps=500" in block
    monkeypatch.chdir(tmp_path)
    exec(compile(block.replace("steps=500", "steps=2"), "README.md", "exec"), {})
    assert (tmp_path / "runs" / "own" / "checkpoints" / "000002" / "discriminator.safetensors").is_file()


def test_links_lead_somewhere():
    for page in [README, *README.parent.glob("docs/**/*.md"), README.parent / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
