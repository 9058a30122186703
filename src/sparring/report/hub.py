"""A run on the Hugging Face hub: its pipeline, and a card that says how it was made and what was measured."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from sparring.recipes.systems import System, systems
from sparring.report.table import number
from sparring.runs.folder import RunFolder
from sparring.runs.results import Result, summarise

SOFTWARE = """@software{sparring,
  title = {sparring: adversarial training of diffusion models},
  author = {{The sparring developers}},
  version = {VERSION},
}"""

METRICS = {
    "frechet": "Frechet",
    "kernel": "kernel",
    "precision": "precision",
    "recall": "recall",
    "class_accuracy": "class accuracy",
    "modes_covered": "modes",
    "good_share": "good share",
    "psnr": "PSNR",
}


def check_hub(repo: str) -> None:
    """Refuses a name that the hub does not take, and a hub that does not know who asks; nothing is written there.

    Raises:
        ValueError: one of these.
    """
    try:
        validate_repo_id(repo)
        if repo.count("/") != 1:
            raise HFValidationError("it has no owner")
    except HFValidationError as error:
        raise ValueError(f"`push_to_hub={repo}` must be OWNER/NAME ({error})") from None
    try:
        HfApi().whoami()
    except Exception as error:  # of the network, the account or the offline mode
        raise ValueError(
            f"`push_to_hub={repo}`: the hub does not answer or does not know you ({reason(error)}): log in with "
            "`hf auth login`, or go without"
        ) from error


def push_to_hub(run: Path, repo: str) -> str:
    """Uploads a run's pipeline, adapters, settings and last samples with a card, in one commit; returns the address.

    A repository that is not there yet is made, and is private. Checkpoints, logs and training images stay here.

    Args:
        run: the run folder.
        repo: OWNER/NAME.

    Raises:
        ValueError: the run has no pipeline, or the upload fails; the run is whole.
    """
    files = files_of(run)
    if not any(name == "model_index.json" or name.endswith(".safetensors") for name in files):
        raise ValueError(f"`push_to_hub={repo}`: {run} has no pipeline that could be uploaded")
    operations = [CommitOperationAdd(name, str(file)) for name, file in sorted(files.items())]
    operations.append(CommitOperationAdd("README.md", str(model_card(run, repo)).encode()))
    try:
        HfApi().create_repo(repo, private=True, exist_ok=True)
        return str(HfApi().create_commit(repo, operations, commit_message=f"{run.name}, made with sparring").repo_url)
    except Exception as error:  # of the network, the account, the disk or the quota
        raise ValueError(
            f"`push_to_hub={repo}`: the upload failed ({reason(error)}); the run in {run} is whole: try again"
        ) from error


def reason(error: Exception) -> str:
    """What went wrong, in a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def files_of(run: Path) -> dict[str, Path]:
    """What is uploaded: names on the hub to files. The pipeline lies at the top, where diffusers looks for it."""
    folder = RunFolder(run)
    found = {p.relative_to(folder.pipeline).as_posix(): p for p in folder.pipeline.rglob("*") if p.is_file()}
    more = {"lora/pytorch_lora_weights.safetensors": folder.lora, "sparring.yaml": folder.config}
    if grids := sorted(p for p in folder.samples.glob("*.png") if p.stem.isdigit()):
        more["samples.png"] = grids[-1]
    return found | {name: file for name, file in more.items() if file.is_file()}


def model_card(run: Path, repo: str) -> ModelCard:
    """The card of a run: method and its paper, data, command, versions, what was measured on how many images.

    Args:
        run: the run folder.
        repo: OWNER/NAME, by which the card loads it.
    """
    config, files = RunFolder(run).read_config(), files_of(run)
    made_with = config.get("made_with") or {}
    results = summarise(run, []).results
    index = json.loads(files["model_index.json"].read_text()) if "model_index.json" in files else {}
    method = system_of(config)
    kind = config["method"]["class_path"].rsplit(".", 1)[-1]
    name = kind if method is None else method.name
    made_by = (made_with.get("versions") or {}).get("sparring", "")
    own = [] if method is None else [f"{method.name}: {method.title} ({method.paper})."]
    parts = [
        f"# {repo.split('/')[1]}",
        " ".join([f"Trained with the method {name} of sparring {made_by}.", *own]),
        *(["![samples](samples.png)"] if "samples.png" in files else []),
        "## Use\n\n" + use(repo, index, "lora/pytorch_lora_weights.safetensors" in files),
        "## How it was made\n\n" + made(config),
        "## Metrics\n\n" + measured(results),
        "## Citation\n\n```bibtex\n" + "\n\n".join(bibtex(method, made_by)) + "\n```",
    ]
    if method is not None and "arXiv" in method.paper:
        parts.append(
            "The entry of the method has no title and names the first author only: complete it at its address."
        )
    captioned = "tokenizer" in index
    tag = "text-to-image" if captioned else "unconditional-image-generation"
    metadata = ModelCardData(
        model_name=repo,
        library_name="diffusers" if index else "sparring",
        pipeline_tag=tag,
        tags=["sparring", name.lower().replace(" ", "-")],
        eval_results=[one for result in results for one in entries(result, tag)] or None,
    )
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def system_of(config: dict[str, Any]) -> System | None:
    """The system that a run's recipe or the class of its method is; None if it is none of the package."""
    recipe, class_path = str(config.get("recipe")), config["method"]["class_path"]
    file = "/".join(class_path.split(".")[1:-1]) + ".py"
    found = {one.file: one for one in systems()}
    return found.get(f"recipes/methods/{recipe}.yaml") or (
        found.get(file) if class_path.startswith("sparring.") else None
    )


def use(repo: str, index: dict[str, Any], adapters: bool) -> str:
    """How to load what was uploaded."""
    if not index:
        return f"    hf download {repo} --local-dir model\n    sparring sample model"
    code = isinstance(index["_class_name"], list)
    more = ", trust_remote_code=True" if code else ""
    lines = ["from diffusers import DiffusionPipeline", "", f'pipe = DiffusionPipeline.from_pretrained("{repo}"{more})']
    text = "```python\n" + "\n".join(lines) + "\n```"
    if code:
        text += "\n\nThe pipeline is a file of this repository, which this runs: read it first."
    if adapters:
        text += "\n\nThe adapters by themselves, for the pipeline that was tuned, are in `lora/`: "
        text += f'`pipe.load_lora_weights("{repo}", subfolder="lora")`.'
    return text


def made(config: dict[str, Any]) -> str:
    """Command, start, data, size and versions of a run."""
    made_with, data = config.get("made_with") or {}, config.get("data") or {}
    arguments = data.get("init_args") or {}
    inner = [f"{key}={value}" for key, value in arguments.items() if value not in (None, [], {})]
    trainer = config.get("trainer") or {}
    versions = ", ".join(f"{name} {value}" for name, value in (made_with.get("versions") or {}).items())
    rows = {
        "data": f"`{data['class_path'].rsplit('.', 1)[-1]}({', '.join(inner)})`" if "class_path" in data else None,
        "started from": f"`{config['init']}`" if config.get("init") else "random weights",
        "updates": trainer.get("steps"),
        "images an update": trainer.get("batch_size"),
        "seed": trainer.get("seed"),
        "device": made_with.get("device"),
        "versions": versions or None,
    }
    listed = "\n".join(f"- {key}: {value}" for key, value in rows.items() if value is not None)
    command = f"    {made_with['command']}\n\n" if made_with.get("command") else ""
    return f"{command}{listed}\n\nAll settings are in `sparring.yaml`."


def measured(results: Sequence[Result]) -> str:
    """What was measured, a row for each, with the number of images and the features."""
    if not results:
        return "Nothing was measured: `sparring evaluate RUN --push_to_hub OWNER/NAME` measures and writes it here."
    names = [key for key in METRICS if any(getattr(result, key) is not None for result in results)]
    heads = ["scheduler", "NFE", "latents' seed", *(METRICS[key] for key in names), "n", "real images", "features"]
    rows = [heads, ["---", *["--:"] * (len(heads) - 2), "---"]]
    for one in results:
        numbers = ["" if (value := getattr(one, key)) is None else number(value) for key in names]
        counts = [str(one.n or "?"), f"{one.n_reference or '?'} of {one.reference or '?'}"]
        rows.append([str(one.scheduler), str(one.nfe), str(one.seed), *numbers, *counts, one.features or "?"])
        if one.floor is not None:
            low = ["" if (value := one.floor.to_json().get(key)) is None else number(value) for key in names]
            rows.append(["real images", "", "", *low, str(one.floor.n or "?"), counts[1], one.features or "?"])
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    notes = "Distances in other features than Inception's are no FID; one run says nothing of the spread over seeds."
    return f"{table}\n\n{notes}"


def entries(result: Result, task: str) -> list[EvalResult]:
    """The numbers of a result as the hub lists them; how they were measured is in their names."""
    how = f"{result.scheduler}, NFE {result.nfe}, n={result.n}, features: {result.features}"
    reference = result.reference or "unknown"
    return [
        EvalResult(task, reference, reference, key, value, dataset_split=result.split, metric_name=f"{name} ({how})")
        for key, name in METRICS.items()
        if (value := getattr(result, key)) is not None
    ]


def bibtex(method: System | None, version: str) -> list[str]:
    """The entries to cite: of the paper what is known of it, by its number, and of this library."""
    own = SOFTWARE.replace("VERSION", version)
    found = None if method is None else re.search(r"arXiv (\d{4}\.\d{4,5})", method.paper)
    if method is None or found is None:
        return [own]
    several = re.search(r"([\w-]+) et al\.", method.paper)
    author = f"{several[1]} and others" if several else method.paper[: found.start()].strip(" ,")
    lines = [
        *([f"author = {{{author}}}"] if author else []),
        f"year = {{20{found[1][:2]}}}",
        f"eprint = {{{found[1]}}}",
        "archivePrefix = {arXiv}",
        f"url = {{https://arxiv.org/abs/{found[1]}}}",
        f"note = {{{method.name}: {method.title}}}",
    ]
    return [f"@misc{{{method.recipe},\n" + "".join(f"  {line},\n" for line in lines) + "}", own]
