"""The command line on text-to-image pipelines: from a pipeline folder and captioned images to a tuned pipeline."""

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from test_cli import fails

from sparring.cli.main import main

SHORT = ["--trainer.steps=1", "--trainer.batch_size=4", "--trainer.num_samples=2", "--trainer.tracker=null"]
CONVNET = ["=sparring.backbones.SmallConvNet", ".in_channels=3", ".pretrain=none"]
JUDGE = [f"--method.discriminator.backbone{setting}" for setting in CONVNET]
ENCODER = [f"--method.discriminator.encoder{setting}" for setting in CONVNET]


@pytest.fixture(scope="module")
def emoji(tmp_path_factory) -> Path:
    """A parquet file of a dozen captioned images."""
    random, path = np.random.default_rng(0), tmp_path_factory.mktemp("captioned") / "emoji.parquet"
    rows: dict[str, list] = {"image": [], "text": []}
    for i in range(12):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file, "png")
        rows["image"].append({"bytes": file.getvalue(), "path": None})
        rows["text"].append(f"picture {'abcdefghijkl'[i]}")
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(str(path))
    return path


def test_tuned_sampled_and_evaluated_on_captions(tiny, emoji, tmp_path, capsys):
    run, data = tmp_path / "run", ["--data", str(emoji), "--data.text_column=text"]
    flags = [*SHORT, *JUDGE, "--denoiser.condition_dropout=0.1", "--method.num_steps=2", "--method.guidance=3"]
    assert main(["fit", "adt", "--init", str(tiny("sd15")), *data, "--out", str(run), *flags]) == 0
    assert (run / "samples" / "000001.png").is_file()
    told = ["--prompt", "a red apple", "zebra", "--guidance", "5", "--size", "16", "--steps", "2", "--n", "3"]
    for source in (run, run / "pipeline"):
        assert main(["sample", str(source), *told, "--out", str(tmp_path / "images" / source.name)]) == 0
    files = [sorted((tmp_path / "images" / name).glob("*.png")) for name in ("run", "pipeline")]
    images = [[np.asarray(Image.open(file)) for file in some] for some in files]
    assert len(images[0]) == 3
    assert np.array_equal(*images)
    capsys.readouterr()
    measured = ["--n", "8", "--steps", "2", "--features", "pixels", "--json"]
    assert "has no images that it was not trained on" in fails(capsys, ["evaluate", str(run), *measured])
    reference = ["--reference", str(emoji), "--text_column", "text"]
    assert main(["evaluate", str(run), *reference, *measured]) == 0
    of_run = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(run / "pipeline"), *reference, *measured]) == 0
    of_pipeline = json.loads(capsys.readouterr().out)
    assert of_run["frechet"] == of_pipeline["frechet"]
    assert main(["evaluate", str(run), *reference, *measured, "--guidance", "4"]) == 0
    guided = json.loads(capsys.readouterr().out)
    assert (of_run["scheduler"], guided["scheduler"]) == ("ddim", "ddim-w4")
    assert guided["frechet"] != of_run["frechet"]
    assert len(json.loads((run / "results.json").read_text())) == 2


@pytest.mark.parametrize(("kind", "recipe"), [("sdxl", "diffusion"), ("sd3", "sadm")])
def test_the_other_recipes_and_pipelines(tiny, emoji, tmp_path, kind, recipe):
    encoder = ENCODER if recipe == "sadm" else []
    data = ["--data", str(emoji), "--data.text_column=text"]
    flags = [*data, *SHORT, *encoder, "--out", str(tmp_path / "run")]
    assert main(["fit", recipe, "--init", str(tiny(kind)), *flags]) == 0
    assert (tmp_path / "run" / "pipeline" / "text_encoder_2" / "config.json").is_file()


def test_captions_without_a_text_model_and_the_reverse(tiny, emoji, tmp_path, capsys):
    out, fit = ["--out", str(tmp_path / "new")], ["fit", "diffusion", "--data", str(emoji)]
    error = fails(capsys, [*fit, "--init", str(tiny("sd15")), *out, *SHORT])
    assert "takes captions and `emoji` has none: name their column (--data.text_column)" in error
    error = fails(capsys, [*fit, "--init", str(tiny("dit")), *out, *SHORT, "--data.text_column=text"])
    assert "`text_column`: DiTTransformer2DModel takes no captions" in error
    error = fails(capsys, ["sample", str(tiny("sd15")), *out])
    assert 'give --prompt "a red apple"' in error
    error = fails(capsys, ["evaluate", str(tiny("sd15")), "--reference", str(emoji), "--features", "pixels"])
    assert "takes captions and `emoji` has none" in error
    error = fails(capsys, ["sample", str(tiny("sd15")), "--prompt", "a", "--size", "15", *out])
    assert "sides must be multiples of 2" in error
    assert not (tmp_path / "new").exists()
