"""Pipeline folders that are not whole: one line that names the part, its keys, and what would help."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from sparring.cli.main import main
from sparring.generators import Pretrained, load_pipeline
from sparring.networks.adapters import LoRA
from sparring.samplers import Sampler

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture
def copied(tiny, tmp_path):
    """A copy of the tiny Stable Diffusion 1.5, to be spoilt."""
    shutil.copytree(tiny("sd15"), tmp_path / "sd")
    return tmp_path / "sd"


def changed(folder, part, change):
    """Writes a part's weights anew, as `change` gives them."""
    file = folder / part / WEIGHTS[part]
    save_file(change(load_file(file)), file, {"format": "pt"})


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("prefix", ["_orig_mod", "module"])
def test_renamed_weights_name_the_part_the_keys_and_the_wrapper(copied, capsys, part, prefix):
    changed(copied, part, lambda state: {f"{prefix}.{key}": value for key, value in state.items()})
    assert main(["sample", str(copied), "--prompt", "a", "--n", "1", "--steps", "1"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"sd/{part}` lacks `" in line
    assert f"holds `{prefix}." in line
    assert f"save the network without its wrapper, whose name `{prefix}.` stands before every key" in line


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_missing_and_an_unknown_weight_are_named(copied, part):
    first = min(load_file(copied / part / WEIGHTS[part]))
    changed(copied, part, lambda state: state | {"extra.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=f"sd/{part}` holds `extra.weight`, which .* does not have$"):
        load_pipeline(copied)
    changed(copied, part, lambda state: {k: v for k, v in state.items() if k not in (first, "extra.weight")})
    with pytest.raises(ValueError, match=f"sd/{part}` lacks `.*`$"):
        load_pipeline(copied)


def test_adapters_that_were_not_fused_are_said(copied):
    key = "down_blocks.0.resnets.0.conv1.weight"
    changed(copied, "unet", lambda s: {k.replace(key, key[:-6] + "base_layer.weight"): v for k, v in s.items()})
    with pytest.raises(ValueError, match="base_layer.weight`.*: fuse or unload its adapters before it is saved"):
        load_pipeline(copied)


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_that_are_not_finite_are_said(copied, part):
    key = min(load_file(copied / part / WEIGHTS[part]))
    changed(copied, part, lambda state: state | {key: state[key] * float("nan")})
    with pytest.raises(ValueError, match=f"sd/{part}`: `.*` is not finite"):
        load_pipeline(copied)


def test_images_that_are_not_numbers_are_said_and_no_black_grid_is_written(copied, tmp_path, capsys):
    changed(copied, "unet", lambda s: s | {"conv_in.weight": torch.full_like(s["conv_in.weight"], 3e38)})  # finite
    arguments = ["--prompt", "a", "--n", "2", "--steps", "1", "--out", str(tmp_path / "a.png")]
    assert main(["sample", str(copied), *arguments]) == 2
    assert "2 of 2 images are not numbers (NaN)" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_a_folder_of_the_fp16_variant_is_read(tiny, tmp_path):
    pipe = DiffusionPipeline.from_pretrained(tiny("sd15"), dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    assert (tmp_path / "half" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert not (tmp_path / "half" / "unet" / WEIGHTS["unet"]).exists()
    half, whole = load_pipeline(tmp_path / "half")[0], load_pipeline(tiny("sd15"))[0]
    for got, expected in ((half.net, whole.net), (half.text.encoders[0], whole.text.encoders[0])):
        assert got.dtype == torch.float32
        for name, tensor in got.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name].half().float()), name
    assert Sampler(tmp_path / "half", device="cpu")(1, 1, prompts=["a"]).images.isfinite().all()


def test_a_part_that_was_not_downloaded_is_named_with_what_helps(copied):
    index = json.loads((copied / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (copied / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"`safety_checker` .* is not there: download it, or put \[null, null\]"):
        load_pipeline(copied)
    (copied / "model_index.json").write_text(json.dumps(index | {"safety_checker": [None, None]}))
    load_pipeline(copied)
    (copied / "vae" / WEIGHTS["vae"]).unlink()
    with pytest.raises(ValueError, match="sd/vae` cannot be read as AutoencoderKL .it holds no weights: download them"):
        load_pipeline(copied)
    shutil.rmtree(copied / "tokenizer")
    with pytest.raises(ValueError, match="its part `tokenizer` .CLIPTokenizer. is not there: download it$"):
        load_pipeline(copied)


@pytest.mark.parametrize(
    ("kind", "part"), [("sd15", "tokenizer"), ("flux", "tokenizer_2"), ("sana", "tokenizer"), ("z_image", "tokenizer")]
)
def test_a_tokenizer_without_its_words_is_said(tiny, tmp_path, kind, part):
    """It would turn every caption into the same tokens, without an error."""
    shutil.copytree(tiny(kind), tmp_path / "pipe")
    for file in (tmp_path / "pipe" / part).iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(ValueError, match=rf"pipe/{part}` holds no vocabulary .*: download it$"):
        load_pipeline(tmp_path / "pipe")


def test_a_name_on_the_hub_and_a_folder_without_its_index_are_told_what_to_do(copied):
    with pytest.raises(ValueError, match="downloaded first: hf download owner/name --local-dir FOLDER"):
        load_pipeline("owner/name")
    (copied / "model_index.json").unlink()
    with pytest.raises(ValueError, match="sd is neither .*: it has a unet/ and no model_index.json"):
        load_pipeline(copied)


def test_a_weight_of_another_shape_is_one_short_line(copied):
    weights = copied / "unet" / WEIGHTS["unet"]
    save_file({**load_file(weights), "conv_in.bias": torch.zeros(5)}, weights)
    with pytest.raises(ValueError, match=r"conv_in.bias expected shape .* but got torch.Size\(\[5\]\)\.?\)$"):
        load_pipeline(copied)


def test_a_single_file_is_told_how_to_become_a_folder(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match="is a single file: write it as a folder with StableDiffusionPipeline.from_sin"
    ):
        load_pipeline(tmp_path / "model.safetensors")
    assert callable(StableDiffusionPipeline.from_single_file)


def test_a_part_is_told_its_pipeline(tiny):
    with pytest.raises(ValueError, match="sd15/unet is one part of a pipeline: give the whole folder .*sd15$"):
        load_pipeline(tiny("sd15") / "unet")


def test_adapters_are_told_how_to_become_a_pipeline_and_the_way_works(tiny, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = DiffusionPipeline.from_pretrained(tiny("sd15"))
    pipe.unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", get_peft_model_state_dict(pipe.unet))
    with pytest.raises(ValueError, match="holds adapters .LoRA. and not their pipeline: open that, call load_lora_w"):
        load_pipeline(tmp_path / "lora")
    pipe = DiffusionPipeline.from_pretrained(tiny("sd15"))
    pipe.load_lora_weights(str(tmp_path / "lora"))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "whole")
    fused, plain = load_pipeline(tmp_path / "whole")[0].net, load_pipeline(tiny("sd15"))[0].net
    moved = [name for name, value in fused.state_dict().items() if not torch.equal(value, plain.state_dict()[name])]
    assert moved
    assert all(name.endswith(("to_q.weight", "to_v.weight")) for name in moved)


@pytest.mark.parametrize("text", ["not json", "[]", "{}"])
def test_a_damaged_index_is_one_line(copied, text):
    (copied / "model_index.json").write_text(text)
    with pytest.raises(ValueError, match="could not be opened as a diffusers pipeline"):
        load_pipeline(copied)


def test_what_is_frozen_of_a_tuned_network_stays_in_eval_mode(tiny):
    denoiser = Pretrained(str(tiny("dit")), LoRA(rank=2)).train()
    kinds = {True: [], False: []}  # modules by whether any of their parameters is trained
    for module in denoiser.net.modules():
        if flags := [parameter.requires_grad for parameter in module.parameters()]:
            kinds[any(flags)].append(module.training)
    assert kinds[True]
    assert all(kinds[True])
    assert kinds[False]
    assert not any(kinds[False])
    assert not any(module.training for module in denoiser.space.vae.modules())
