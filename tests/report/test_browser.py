"""The page in headless Chromium, where one is installed: opens without errors, sorts, filters, slides."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_up_runs import Demo

from sparring.evaluation import Comparison
from sparring.report import write_comparison

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")

ERRORS = """<script>
window.errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.blockedURI));
</script>"""

ACTIONS = """<script>
const found = {};
const column = () => all("#results tbody tr").filter((row) => !row.hidden).map((row) => row.cells[3].dataset.value);
const press = (name) => all("#results thead button").find((button) => button.textContent === name).click();
press("Frechet"); found.up = column();
press("Frechet"); found.down = column();
press("Arm"); found.arm = document.querySelector("#results tbody th").textContent;
scheduler.value = "dpm"; scheduler.dispatchEvent(new Event("change")); found.filtered = column().length;
slider.value = 0; slider.dispatchEvent(new Event("input"));
found.steps = all(".film img").filter((image) => image.checkVisibility()).map((image) => image.dataset.step);
document.querySelector("[data-toggle='2']").click();
found.visible = all("[data-arm='2']").filter((part) => part.getClientRects().length).length;
const select = document.querySelector("select[data-switch=finals]");
select.value = "1"; select.dispatchEvent(new Event("change"));
found.cases = all("[data-case=finals]").filter((part) => part.checkVisibility()).map((part) => part.dataset.index);
document.getElementById("larger").click();
found.overflow = document.documentElement.scrollWidth - innerWidth;
found.broken = all("img").filter((image) => image.complete && image.naturalWidth === 0).length;
found.loads = performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length;
const after = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const look = () => [Number(slider.value), play.getAttribute("aria-pressed")];
(async () => {
  play.click(); await after(1200); found.playing = look();
  play.click(); await after(2000); found.paused = look();
  play.click(); await after(20000); found.ended = look();
  found.last = all(".film img").filter((image) => image.checkVisibility()).map((image) => image.dataset.step);
  play.click(); found.again = look();
  found.errors = errors;
  document.title = JSON.stringify(found);
})();
</script>"""


def test_page_works_in_a_browser(demo: Demo, tmp_path: Path) -> None:
    out = write_comparison(Comparison.of(demo.runs), tmp_path / "report.html", verdicts=demo.verdicts)
    text = out.read_text(encoding="utf-8")
    out.write_text(text.replace("<title>", ERRORS + "<title>", 1).replace("</body>", ACTIONS + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --virtual-time-budget=60000"  # for what plays by itself
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --v=0 --window-size=500,900"
    done = subprocess.run(
        [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", out.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr[-2000:]
    found = json.loads(html.unescape(title[1]))
    assert found["errors"] == []
    assert "CONSOLE" not in done.stderr
    numbers = [float(value) for value in found["up"]]
    assert numbers == sorted(numbers)
    assert [float(value) for value in found["down"]] == numbers[::-1]
    assert found["arm"] == "add"
    assert found["filtered"] == 20
    assert found["steps"] == ["0"] * 7  # the samples of six arms and the field of one
    assert found["playing"] == [2, "true"]
    assert found["paused"] == [2, "false"]
    assert found["ended"] == [10, "false"]
    assert found["last"] == ["2000", "300", "300", "300", "300", "300"]  # one arm is hidden
    assert found["again"] == [0, "true"]
    assert found["visible"] == 0
    assert found["cases"] == ["1"]
    assert found["overflow"] <= 0
    assert found["broken"] == found["loads"] == 0
