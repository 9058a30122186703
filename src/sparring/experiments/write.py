"""Everything that a study leaves behind: results file, CSV, Markdown, LaTeX, a figure, a page for each setting."""

from collections.abc import Sequence
from pathlib import Path

from sparring.evaluation import Comparison
from sparring.experiments.collect import of_space, verdicts_on, write_csv
from sparring.experiments.figures import draw_curves
from sparring.experiments.results import StudyResults, fill_pages
from sparring.experiments.study_runs import StudyRuns
from sparring.report import write_comparison


def write_all(study_runs: StudyRuns, results: StudyResults, seeds: Sequence[int], arms: Sequence[str]) -> list[Path]:
    """Writes OUT/STUDY.json, .csv, .md, .tex, .png and OUT/STUDY-SETTING.html, and returns them."""
    files = [study_runs.out / f"{results.name}.{ending}" for ending in ("json", "csv", "md", "tex", "png")]
    results.write(files[0])
    write_csv(study_runs, seeds, arms, files[1])
    files[2].write_text(results.markdown(), encoding="utf-8")
    files[3].write_text(results.latex(), encoding="utf-8")
    draw_curves({name: setting.table("distance") for name, setting in results.settings.items()}, files[4])
    for setting in results.settings:
        runs = of_space(study_runs, setting, seeds, arms, next(iter(study_runs.study.features_on(setting))))
        found = [one for arm in arms for one in verdicts_on(runs, arm, study_runs.study.controls_of(arm))]
        page = study_runs.out / f"{results.name}-{setting}.html"
        title, comparison = f"{results.name}: {setting}", Comparison.of(runs)
        files.append(write_comparison(comparison, page, verdicts=found, title=title, command=results.command))
    return files


def write_documents(results: StudyResults, folder: Path) -> list[Path]:
    """Writes FOLDER/data/STUDY.json, and the tables of the folder's pages that name it; returns what changed."""
    file = folder / "data" / f"{results.name}.json"
    results.write(file)
    return [file, *fill_pages(folder)]
