"""Runs that train a part of a network: from the command line, to the bit, with nothing kept twice."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_runs import assert_same_checkpoint

from sparring.cli.main import main
from sparring.generators import Pretrained, load_pipeline
from sparring.networks.adapters import DiffFit, LoRA, Parts
from sparring.training import EMA
from sparring.training.sharding import shard

pytestmark = pytest.mark.slow

NET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
BACKBONE = {"class_path": "sparring.backbones.SmallConvNet"}
BACKBONE["init_args"] = {"in_channels": 1, "widths": [4, 8], "pretrain": "none"}
TUNE = {
    "data": {"class_path": "sparring.data.Digits"},
    "denoiser": {"tuning": {"class_path": "sparring.networks.adapters.LoRA", "init_args": {"rank": 2}}},
    "method": {
        "class_path": "sparring.methods.tuning.adt.ADT",
        "init_args": {
            "discriminator": {
                "class_path": "sparring.discriminators.SiameseDiscriminator",
                "init_args": {"backbone": BACKBONE, "width": 8},
            },
            **{"num_steps": 3, "num_grad_steps": 1, "warmup_steps": 0, "ramp_steps": 0},
        },
    },
    "trainer": {
        **{"steps": 4, "batch_size": 8, "num_samples": 4, "tracker": None, "checkpoint_every": 2},
        **{"keep_checkpoints": 9, "log_every": 2, "generator_optimizer": {"lr": 1e-2}},
    },
}


@pytest.fixture(scope="module", autouse=True)
def no_pages():
    """Runs write no report, which would take longer than they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparring.report.write_run_report", lambda run: run)
        yield


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a pipeline, `base`, a recipe that puts adapters on it, and a run of it, `lora`."""
    from diffusers import UNet2DModel

    from sparring.generators import Denoiser
    from sparring.process import VP

    folder = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(0)
    Denoiser(UNet2DModel(**NET), VP(schedule="cosine"), "v").save(folder / "base", "ddim")
    (folder / "tune.yaml").write_text(yaml.safe_dump(TUNE))
    assert fit(folder, "lora") == 0
    return folder


def fit(folder, out, *flags, init="base"):
    start = [] if "--resume" in flags else ["--init", str(folder / init)]
    return main(["fit", str(folder / "tune.yaml"), "--out", str(folder / out), *start, *flags])


def line(capsys):
    """The one line on stderr, and nothing else."""
    (text,) = capsys.readouterr().err.strip().splitlines()
    return text


def weights(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_checkpoints_hold_what_is_trained_and_no_file_the_base(workplace):
    run = workplace / "lora"
    newest = run / "checkpoints" / "000004"
    groups = {name: load_file(newest / f"{name}.safetensors") for name in ("generator", "ema", "optimizer_generator")}
    assert groups["generator"].keys() == groups["ema"].keys()
    for name in [*groups["generator"], *groups["optimizer_generator"]]:
        assert ".lora_A." in name or ".lora_B." in name
    frozen = load_file(run / "frozen.safetensors")
    assert not [name for name in frozen if name.startswith("generator.")]
    assert any(name.startswith("discriminator.backbone.") for name in frozen)
    assert "scale" not in " ".join(frozen)  # heads of the discriminator are trained, all of them
    moved = load_file(newest / "discriminator.safetensors")
    assert any("heads" in name or "twin" in name for name in moved)


def test_only_the_layers_with_adapters_differ_from_the_base_in_what_is_shipped(workplace):
    base, shipped = weights(workplace / "base"), weights(workplace / "lora" / "pipeline")
    assert base.keys() == shipped.keys()
    changed = {name for name in base if not torch.equal(base[name], shipped[name])}
    assert changed
    assert all(name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")) for name in changed)
    assert not (workplace / "lora" / "lora").exists()  # the pipeline of a UNet2DModel loads no adapters


def test_resume_is_exact_also_before_the_first_checkpoint(workplace):
    for out, steps in (("cut", "2"), ("early", "4")):
        assert fit(workplace, out, "--trainer.steps", steps) == 0
    shutil.rmtree(workplace / "early" / "checkpoints")
    (workplace / "early" / "checkpoints").mkdir()
    for out in ("cut", "early"):
        assert fit(workplace, out, "--resume", "--trainer.steps", "4") == 0
        assert_same_checkpoint(workplace / "lora", workplace / out, 4)
        assert weights(workplace / out / "pipeline").keys() == weights(workplace / "base").keys()


def test_a_base_that_is_gone_moved_or_another_is_said_in_one_line(workplace, capsys):
    for name in ("moved", "other"):
        shutil.copytree(workplace / "base", workplace / name)
    assert fit(workplace, "away", "--trainer.steps", "2", init="moved") == 0
    shutil.move(workplace / "moved", workplace / "elsewhere")
    capsys.readouterr()
    assert fit(workplace, "away", "--resume") == 2
    assert "trains a part of the network in" in (said := line(capsys))
    assert "moved, which is not there" in said
    state = weights(workplace / "other")
    state["conv_in.weight"][0] += 1
    from safetensors.torch import save_file

    save_file(state, workplace / "other" / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    assert fit(workplace, "away", "--resume", "--denoiser.path", str(workplace / "other")) == 2
    assert "are not those that this run started with" in line(capsys)
    found = str(workplace / "elsewhere")
    assert fit(workplace, "away", "--resume", "--trainer.steps", "4", "--denoiser.path", found) == 0
    assert_same_checkpoint(workplace / "lora", workplace / "away", 4)


def test_full_tuning_goes_on_without_the_folder_it_started_from(workplace):
    shutil.copytree(workplace / "base", workplace / "start")
    for out, start in (("full", "base"), ("full-cut", "start")):
        full = ["--denoiser.tuning", "null", "--trainer.steps", "4" if out == "full" else "2"]
        assert fit(workplace, out, *full, init=start) == 0
    shutil.rmtree(workplace / "start")
    assert fit(workplace, "full-cut", "--resume", "--trainer.steps", "4") == 0
    assert_same_checkpoint(workplace / "full", workplace / "full-cut", 4)


def test_a_run_from_a_run_with_adapters_starts_at_its_merged_weights(workplace):
    assert fit(workplace, "second", "--trainer.steps", "2", init="lora") == 0
    config = yaml.safe_load((workplace / "second" / "config.yaml").read_text())
    assert config["denoiser"]["path"] == str(workplace / "lora")
    tuned = Pretrained(str(workplace / "lora"), LoRA(rank=2))
    merged = weights(workplace / "lora" / "pipeline")
    for name, parameter in tuned.net.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, merged[name.replace(".base_layer", "")])


@pytest.mark.parametrize("tuning", [["DiffFit"], ["Parts", "--denoiser.tuning.pattern", "conv_out"]])
def test_other_tunings_resume_and_ship_too(workplace, tuning):
    out = tuning[0]
    chosen = ["--denoiser.tuning", *tuning]
    assert fit(workplace, out, *chosen) == 0
    assert fit(workplace, f"{out}-cut", *chosen, "--trainer.steps", "2") == 0
    assert fit(workplace, f"{out}-cut", "--resume", "--trainer.steps", "4") == 0
    assert_same_checkpoint(workplace / out, workplace / f"{out}-cut", 4)
    base, shipped = weights(workplace / "base"), weights(workplace / out / "pipeline")
    assert base.keys() == shipped.keys()
    if out == "Parts":
        changed = {name for name in base if not torch.equal(base[name], shipped[name])}
        assert changed == {"conv_out.weight", "conv_out.bias"}
    load_pipeline(workplace / out)


def test_settings_show_the_tuning(workplace, capsys):
    assert main(["fit", str(workplace / "tune.yaml"), "--settings"]) == 0
    text = capsys.readouterr().out
    assert "--denoiser.tuning" in text
    assert "--denoiser.frozen" in text
    assert main(["fit", str(workplace / "tune.yaml"), "--out", str(workplace / "none")]) == 2
    assert "give it with --init" in line(capsys)


def test_half_precision_of_what_is_frozen_and_gradient_checkpointing(workplace):
    half = ["--denoiser.frozen", "bf16", "--trainer.precision", "bf16", "--trainer.steps", "2"]
    for out, flag in (("half", "false"), ("half-checkpointed", "true")):
        assert fit(workplace, out, *half, "--trainer.gradient_checkpointing", flag) == 0
    assert_same_checkpoint(workplace / "half", workplace / "half-checkpointed", 2)
    lines = [json.loads(text) for text in (workplace / "half" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["skipped"] == 0
    net = Pretrained(str(workplace / "base"), LoRA(rank=2), frozen="bf16").net
    assert {p.dtype for p in net.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_shards_of_a_partly_frozen_network_are_refused(workplace, monkeypatch):
    monkeypatch.setattr("sparring.training.processes.world", lambda: 2)
    denoiser = Pretrained(str(workplace / "base"), LoRA(rank=2))
    with pytest.raises(ValueError, match="`sharding=fsdp2` spreads a network that is trained whole"):
        shard(denoiser.net, EMA(denoiser).module.net, torch.device("cpu"), "fp32")


@pytest.mark.parametrize("tuning", [LoRA(rank=2), DiffFit(), Parts(pattern="attentions")])
def test_the_average_moves_with_what_is_trained_and_shares_the_rest(workplace, tuning):
    denoiser = Pretrained(str(workplace / "base"), tuning).train()
    ema = EMA(denoiser, decay=0.5)
    before = {name: p.detach().clone() for name, p in denoiser.named_parameters()}
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data += 1
    ema.update()
    trained = {name for name, p in denoiser.named_parameters() if p.requires_grad}
    own, averaged = dict(denoiser.named_parameters()), dict(ema.module.named_parameters())
    for name in own:
        shared = own[name].data_ptr() == averaged[name].data_ptr()
        assert shared == (name not in trained)
        torch.testing.assert_close(averaged[name].data, before[name] + 0.5 * (name in trained))
    assert sum(tensor.numel() for tensor in ema.copy) == sum(own[name].numel() for name in trained)
