"""What a recipe may name, what going on with a run keeps, and what it refuses; by the command line."""

import shutil
import subprocess
import sys
from copy import deepcopy
from itertools import product

import pytest
import torch
import yaml

from sparring import load_generator
from sparring.cli.main import main
from sparring.recipes import recipe
from sparring.recipes.compose import SECTIONS, compose, decides_process, filled, names_network, read, shipped
from sparring.recipes.recipe import parse
from sparring.recipes.spelling import check_flags
from sparring.training import Trainer

SHORT = ["--trainer.steps=2", "--trainer.batch_size=8", "--trainer.num_samples=1", "--trainer.tracker=null"]


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """The working folder, where `evilmod` could be imported and must not be, and `evil` holds one of its classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evilmod.py").write_text(
        "from sparring.methods import Diffusion\nfrom sparring.process import Uniform\n"
        "class Evil(Diffusion): pass\nclass EvilTimes(Uniform): pass\n"
    )
    for name in ("evil.yaml", "evil.json", "evil"):
        (tmp_path / name).write_text('{"class_path": "evilmod.Evil"}')
    yield tmp_path
    sys.modules.pop("evilmod", None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    assert main(["fit", "diffusion", "--on", "digits", "--out", str(run), *SHORT]) == 0
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def config_of(run):
    return yaml.safe_load((run / "config.yaml").read_text())


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("evil.yaml", "`method=evil.yaml` would be read as a file"),
        ("evil.json", "`method=evil.json`"),
        ("evil", "`method=evil`"),
        ("./evil", "`method=./evil`"),
        ("{class_path: evilmod.Evil}", "`method={class_path: evilmod.Evil}`"),
        ("evilmod.Evil", "add --allow evilmod"),
        (
            {"class_path": "sparring.methods.denoising.diffusion.Diffusion", "init_args": {"times": "evil.yaml"}},
            "times=evil.yaml",
        ),
        (
            {
                "class_path": "sparring.methods.denoising.diffusion.Diffusion",
                "init_args": {"times": "evilmod.EvilTimes"},
            },
            "--allow evilmod",
        ),
        (
            {"class_path": "sparring.methods.denoising.diffusion.Diffusion", "init_args.times": "evilmod.EvilTimes"},
            "--allow evilmod",
        ),
        ({"class_path": "Diffusion", "init_args": {"times": "evilmod.EvilTimes"}}, "--allow evilmod"),
        ({"init_args": {"times": ["evilmod.EvilTimes"]}}, "--allow evilmod"),
        (
            {"class_path": "sparring.methods.denoising.diffusion.Diffusion", "init_args": {"times": "file:evil"}},
            "times=file:evil",
        ),
    ],
)
def test_no_way_of_naming_a_foreign_class_imports_it(strange, capsys, method, words):
    (strange / "r.yaml").write_text(yaml.safe_dump(compose("diffusion", "digits") | {"method": method}))
    assert words in refused(capsys, "fit", "r.yaml", "--out", strange / "new", *SHORT)
    assert "evilmod" not in sys.modules
    assert not (strange / "new").exists()


@pytest.mark.parametrize("section", ["data", "denoiser", "trainer"])
def test_no_section_is_read_from_another_file(strange, capsys, section):
    (strange / "r.yaml").write_text(yaml.safe_dump(compose("diffusion", "digits") | {section: "evil.yaml"}))
    assert f"`{section}=evil.yaml`" in refused(capsys, "fit", "r.yaml", "--out", strange / "new")
    assert "evilmod" not in sys.modules


@pytest.mark.parametrize(
    "data",
    [
        {"class_path": "sparring.data.TorchData", "init_args": {"dataset": "evil.yaml"}},
        {"class_path": "TorchData", "init_args": {"dataset": "evilmod.Evil"}},
        {"class_path": "TorchData", "init_args": {"dataset": {"class_path": "evilmod.Evil"}}},
        {"class_path": "TorchData", "init_args": {"dataset": "digits", "holdout": "evil.yaml"}},
        {"class_path": "TorchData", "init_args": {"dataset": {"class_path": "torch.load", "init_args": {"f": "evil"}}}},
        {"class_path": "sparring.data.UnpairedData.of", "init_args": {"target": "evil.yaml", "source": "evil.yaml"}},
    ],
)
def test_no_data_set_takes_an_object_from_elsewhere(strange, capsys, data):
    (strange / "r.yaml").write_text(yaml.safe_dump(compose("diffusion", "digits") | {"data": data}))
    refused(capsys, "fit", "r.yaml", "--out", strange / "new", *SHORT)
    assert "evilmod" not in sys.modules
    assert not (strange / "new").exists()


def test_a_recipe_that_leaves_the_data_to_the_user(tmp_path, capsys):
    message = "this recipe leaves the data to you: give a word with --data"
    for flags in ([], ["--data.path", "emoji"], ["--data.path=emoji", "--data.size=32"]):
        assert message in refused(capsys, "fit", "diffusion", "--out", tmp_path / "new", *flags)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "place",
    [
        {"data": {"class_path": "sparring.data.HubData", "init_args": {"path": "evilmod.parquet"}}},
        {"data": {"class_path": "sparring.data.UnpairedData", "init_args": {"path": "a", "source": "evilmod.tar"}}},
        {"data": {"class_path": "HubData", "init_args": {"path": "x", "where": {"kind": ["evilmod.Evil"]}}}},
        {"data": {"class_path": "HubData", "init_args": {"path": "evil", "holdout": "evilmod.parquet"}}},
        {"denoiser": {"path": "evilmod.Evil"}},
    ],
)
def test_text_may_look_like_a_module_or_a_file_where_no_class_can_stand(strange, place):
    recipe.check_classes(place, [])


def test_every_method_may_be_used_on_every_setting(strange):
    for name, setting, tuned in product(shipped("methods"), shipped("settings"), (False, True)):
        if tuned and decides_process(read(name)):  # which no trained start is given to
            continue
        try:
            made = compose(name, setting, tuned=tuned)
        except ValueError as error:
            assert f"{name} names its own network, and {setting} tunes that of a pipeline" in str(error)  # noqa: PT017
            continue
        recipe.check_classes(made, [])


def test_a_key_that_stands_twice_is_refused(tmp_path):
    """YAML would keep the second, and the settings of the first would be lost."""
    file = tmp_path / "own.yaml"
    file.write_text("method: &same {a: 1}\non: {ring: *same}\nstart: trained\non: {digits: *same}\n")
    with pytest.raises(ValueError, match="the key 'on' stands twice"):
        read(str(file))
    file.write_text("method: &same {a: 1}\non: {ring: {<<: *same, a: 2}}\n")
    assert read(str(file))["on"] == {"ring": {"a": 2}}


@pytest.mark.parametrize("name", ["meanflow", "twinflow"])
def test_a_flow_of_two_times_starts_from_a_trained_flow_and_from_no_other(name, tmp_path, capsys):
    """The start keeps its process and its own time, and takes the length of a step in addition."""
    for setting in ("digits", "digits-vp"):
        start = [f"--out={tmp_path / setting}", "--trainer.steps=1", "--trainer.tracker=null"]
        assert main(["fit", "diffusion", "--on", setting, *start]) == 0
    tuned = ["--trainer.steps=1", "--trainer.tracker=null", f"--out={tmp_path / name}"]
    assert main(["fit", name, "--on", "digits", f"--init={tmp_path / 'digits'}", *tuned]) == 0
    config = config_of(tmp_path / name)
    assert config["denoiser"]["second_time"] is True
    before, after = (load_generator(tmp_path / run) for run in ("digits", name))
    assert after.time_slot is not None
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 1.0])
    with torch.no_grad():
        moved = (after(x, t, None).x0 - before(x, t, None).x0).abs().max()
    assert moved < 0.1  # one small step away from the start
    capsys.readouterr()
    assert main(["fit", name, "--on", "digits", f"--init={tmp_path / 'digits-vp'}", *tuned[:2]]) == 2
    assert "`process=VP`, `prediction=v`" in capsys.readouterr().err


def test_a_run_does_not_vouch_for_its_own_classes(strange, run, capsys):
    config = config_of(run) | {"allow": ["evilmod"]}
    config["method"]["class_path"] = "evilmod.Evil"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    resume = ("fit", "diffusion", "--on", "digits", "--out", run, "--resume", "--trainer.steps=3")
    assert "if you trust it, add --allow evilmod" in refused(capsys, *resume)
    assert "evilmod" not in sys.modules
    assert main([*map(str, resume), "--allow", "evilmod"]) == 0
    assert config_of(run)["allow"] == ["evilmod"]


def test_data_called_like_a_module_and_given_from_another_folder(strange, capsys):
    from sparring.data import Digits
    from sparring.samplers import save_images

    save_images(Digits().images(20), strange / "evilmod.pictures")
    arguments = ["fit", "diffusion", "--on", "digits", "--out", str(strange / "new")]
    assert main([*arguments, "--data", "evilmod.pictures", *SHORT]) == 0
    assert config_of(strange / "new")["data"]["init_args"]["path"] == str(strange / "evilmod.pictures")
    (strange / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(strange / "elsewhere")
        assert main([*arguments, "--resume", "--trainer.steps=3"]) == 0
    assert main([*arguments, "--resume", "--data", "evilmod.pictures"]) == 0
    assert "`--data digits`" in refused(capsys, *arguments, "--resume", "--data", "digits")


def test_a_split_to_hold_out_is_no_folder(strange):
    (strange / "test").mkdir()
    section = {"class_path": "sparring.data.HubData", "init_args": {"path": "test", "holdout": "test"}}
    assert recipe.with_absolute_paths(section)["init_args"] == {"path": str(strange / "test"), "holdout": "test"}


def test_what_is_changed_at_resume_is_recorded_and_holds_for_the_next(run, monkeypatch):
    before = config_of(run)
    resume = ["fit", "diffusion", "--on", "digits", "--out", str(run), "--resume"]
    taken = Trainer.train_step

    def stopped(self, window):
        taken(self, window)
        self.stop(15)

    monkeypatch.setattr(Trainer, "train_step", stopped)
    assert main([*resume, "--trainer.steps=5"]) == 143
    before["trainer"]["steps"] = 5
    after = config_of(run)
    assert len(after["made_with"].pop("ancestors")) == 1  # the weights that it went on from
    assert after == before
    monkeypatch.undo()
    assert main(resume) == 0
    assert (run / "checkpoints" / "000005").is_dir()


def test_what_cannot_go_on_leaves_the_configuration(run, capsys):
    before = (run / "config.yaml").read_bytes()
    weights = run / "checkpoints" / "000002" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "damaged" in refused(capsys, "fit", "diffusion", "--out", run, "--resume", "--trainer.steps=5")
    assert (run / "config.yaml").read_bytes() == before


def test_resume_shows_and_refuses_as_a_start_does(run, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("was trained"))
    before = (run / "config.yaml").read_bytes()
    resume = ["fit", "diffusion", "--on", "digits", "--out", str(run), "--resume", "--trainer.steps=7"]
    assert main([*resume, "--dry_run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["steps"] == 7
    assert main([*resume, "--settings"]) == 0
    assert "--trainer.steps" in capsys.readouterr().out
    assert main([*resume, "--dry_run", "--data", "digits"]) == 0
    for flags in (["--data", "digits:all"], ["--data", "ring"], ["--init", str(run)]):
        assert f"`{' '.join(flags)}` is not" in refused(capsys, *resume, *flags)
    assert (run / "config.yaml").read_bytes() == before


def test_a_tuned_run_keeps_where_it_came_from(run, tmp_path, capsys):
    out = tmp_path / "tuned"
    tuned = ["fit", "diffusion", "--on", "digits", "--out", str(out)]
    assert main([*tuned, "--init", str(run), *SHORT]) == 0
    assert main([*tuned, "--resume", "--init", str(run), "--trainer.steps=3"]) == 0
    config = config_of(out)
    assert config["denoiser"]["path"] == config["init"] == str(run)
    assert config["trainer"]["steps"] == 3
    assert "is not what the run started from" in refused(capsys, *tuned, "--resume", "--init", out)


def test_the_configuration_of_a_run_is_a_recipe(run, tmp_path):
    out = [tmp_path / "again", tmp_path / "tuned", tmp_path / "tuned again"]
    assert main(["fit", str(run / "config.yaml"), "--out", str(out[0])]) == 0
    assert config_of(out[0])["trainer"] == config_of(run)["trainer"]
    assert main(["fit", "diffusion", "--on", "digits", "--init", str(run), "--out", str(out[1]), *SHORT]) == 0
    assert main(["fit", str(out[1] / "config.yaml"), "--out", str(out[2])]) == 0
    assert config_of(out[2])["init"] == str(run)
    assert main(["fit", str(out[1] / "config.yaml"), "--init", str(out[0]), "--out", str(tmp_path / "other")]) == 0
    assert config_of(tmp_path / "other")["init"] == str(out[0])


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--trainer.stepz=5", "--trainer.stepz=5: did you mean --trainer.steps?"),
        ("--trainer.step=5", "--trainer.step=5: did you mean --trainer.steps?"),
        ("--steps=5", "--steps=5: did you mean --trainer.steps?"),
        ("--lr=5", "--lr=5: did you mean --trainer.generator_optimizer.lr?"),
        ("--inti=base", "--inti=base: did you mean --init?"),
        ("--nothing.like=5", "--nothing.like=5: settings begin with --data, --denoiser,"),
        ("--method.weightin=5", "--method.weightin=5: did you mean --method.weighting?"),
        ("--data.path=photos", "--data.path=photos: data takes split"),
    ],
)
def test_a_misspelt_setting_is_answered_with_the_right_one(tmp_path, capsys, flag, words):
    assert words in refused(capsys, "fit", "diffusion", "--on", "digits", "--out", tmp_path / "new", flag)


@pytest.mark.parametrize(
    "arguments",
    [
        ["adt", "--on", "digits", "--init", "base", "--method.discriminator.widht=3"],
        ["adt", "--on", "digits", "--init", "base", "--method.discriminator.backbone.init_args.pretrian", "none"],
        ["adt", "--on", "digits"],
        ["diffusion"],
        ["diffusion", "--on", "digits", "--trainer.lr=1"],
        ["wgan", "--on", "digits", "--generator.latent_dims=3"],
        ["adt", "--on", "digits", "--init", "nowhere"],
        ["diffusion", "--on", "fashion16"],
    ],
)
def test_a_slip_is_refused_before_anything_heavy_is_imported(arguments):
    code = f"import sys; from sparring.cli.main import main; code = main(['fit', *{arguments}])\n"
    code += "assert code == 2 and 'torch' not in sys.modules, code\n"
    code += "for command in ('sample', 'evaluate', 'compare'):\n"
    code += "    assert main([command, 'nowhere']) == 2 and 'torch' not in sys.modules, command"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", shipped("methods"))
@pytest.mark.parametrize("setting", shipped("settings"))
def test_what_a_recipe_says_itself_is_never_taken_for_a_slip(name, setting):
    if names_network(read(name)) and "tuning" in compose("diffusion", setting).get("denoiser", {}):
        with pytest.raises(ValueError, match=f"{name} names its own network, and {setting} tunes that of a pipeline"):
            compose(name, setting)
        return
    for tuned in (False,) if decides_process(read(name)) else (False, True):
        composed = compose(name, setting, tuned=tuned)
        if "net" not in composed.get("denoiser", {"net": None}) and not tuned:
            continue  # refused without --init, or chosen by the data
        if tuned and "denoiser" in composed:
            composed["denoiser"] = recipe.section_of(composed, "base", [])
        flags = [
            f"--{'.'.join(map(str, path))}={value}"
            for path, value in recipe.strings({key: composed[key] for key in SECTIONS if key in composed})
            if not any(isinstance(part, int) for part in path)
        ]
        check_flags(composed, flags, tuned)
        check_flags(composed, ["--method=Other", "--method.anything=1"], tuned)


def test_settings_say_what_they_mean(capsys):
    assert main(["fit", "adt", "--on", "digits", "--settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 300
    assert "  --method.num_steps 5   [int]" in lines
    assert "      length m of the inference path." in lines
    assert any(line.startswith("  --trainer.generator_optimizer.lr 0.0005") for line in lines)
    assert any(line.startswith("  --method.discriminator.backbone.pretrain classifier") for line in lines)
    assert main(["fit", "adt", "--on", "digits", "--settings", "--method.discriminator.help"]) == 0
    assert capsys.readouterr().out.startswith("method.discriminator: SiameseDiscriminator.")
    assert main(["fit", "adt", "--on", "digits", "--settings", "--method.help", "DDO"]) == 0
    of_ddo = capsys.readouterr().out
    assert of_ddo.startswith("method: DDO.")
    assert "--method.num_fakes 2000" in of_ddo
    assert main(["fit", "adt", "--on", "digits", "--method.help=Nobody"]) == 2
    assert "the library has no class Nobody" in capsys.readouterr().err


def test_another_recipe_or_setting_is_refused_when_a_run_goes_on(run, tmp_path, capsys):
    resume = ["--out", run, "--resume", "--trainer.steps=3"]
    assert "`sparring fit diffusion`, not by sadm" in refused(capsys, "fit", "sadm", "--on", "digits", *resume)
    assert "`--on ring` is not what" in refused(capsys, "fit", "diffusion", "--on", "ring", *resume)
    (tmp_path / "other.yaml").write_text("method: {}")
    assert "not by" in refused(capsys, "fit", tmp_path / "other.yaml", *resume)
    assert not (run / "checkpoints" / "000003").exists()


GAN = {
    "generator": {
        "class_path": "sparring.generators.LatentGenerator",
        "init_args": {
            "net": {"class_path": "sparring.networks.Perceptron", "init_args": {"out_shape": [2, 1, 1]}},
            "latent_dim": 2,
        },
    },
    "method": {
        "class_path": "toygan.ToyGAN",
        "init_args": {"discriminator": {"class_path": "sparring.networks.Perceptron"}},
    },
}


def test_a_recipe_may_make_another_kind_of_generator(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toygan.py").write_text(
        "from sparring.methods import Method\nfrom torch import nn\n"
        "class ToyGAN(Method):\n"
        "    def __init__(self, generator, discriminator: nn.Module): super().__init__(generator, discriminator)\n"
        "    def rollout(self, batch): return self.generator(self.generator.latents(batch))\n"
        "    def discriminator_loss(self, batch, fake):\n"
        "        return {'w': (self.discriminator(fake.detach()) - self.discriminator(batch.images)).mean()}\n"
        "    def generator_loss(self, batch, fake): return {'w': -self.discriminator(fake).mean()}\n"
    )
    (tmp_path / "toygan.yaml").write_text(yaml.safe_dump(GAN))
    fit = ["fit", "toygan.yaml", "--on", "ring", "--allow", "toygan"]
    assert main([*fit, "--out", "first", *SHORT]) == 0
    assert main([*fit, "--init", "first", "--out", "second", *SHORT]) == 0
    assert main([*fit, "--init", "first", "--out", "second", "--resume", "--trainer.steps=3"]) == 0
    config = config_of(tmp_path / "second")
    assert config["generator"]["init_args"]["folder"] == str(tmp_path / "first")
    assert "denoiser" not in config
    sys.modules.pop("toygan", None)


def test_a_part_of_the_setting_with_what_the_method_lays_over_it():
    parts = {"net": {"class_path": "Net", "init_args": {"size": 8, "inner": {"class_path": "Inner", "init_args": {}}}}}
    missing = []
    asked = {"a": {"class_path": "$net", "init_args": {"time": True, "inner": {"width": 3}}}, "b": "$net"}
    absent = {"c": {"class_path": "$other"}, "e": "$net.outer", "f": "$other.net"}
    asked |= {"d": {"class_path": "$net.inner", "init_args": {"width": 4}}}
    made = filled({**asked, **absent}, parts, missing)
    inner = {"class_path": "Inner", "init_args": {"width": 3}}
    assert made["a"] == {"class_path": "Net", "init_args": {"size": 8, "time": True, "inner": inner}}
    assert made["b"] == parts["net"]
    assert made["d"] == {"class_path": "Inner", "init_args": {"width": 4}}
    assert not {*absent} & {*made}
    assert missing == ["other", "net", "other"]


def test_the_default_is_flow_and_variants_are_as_before():
    fashion, flow = compose("diffusion", "fashion16"), compose("flow", "fashion16-vp")
    assert fashion["denoiser"] == flow["denoiser"]
    assert fashion["trainer"] == flow["trainer"]
    assert fashion["denoiser"]["process"]["init_args"] == {"coupling": {"class_path": "sparring.process.Assignment"}}
    before = compose("diffusion", "fashion16-vp")
    assert before["denoiser"]["net"] == fashion["denoiser"]["net"]
    assert before["denoiser"]["process"]["class_path"] == "sparring.process.VP"
    assert before["trainer"]["generator_optimizer"]["lr"] == 2e-3
    assert not before["trainer"]["ema_warmup"]


def test_a_method_is_laid_over_a_setting_with_its_base_and_needs_what_it_says_of_either():
    """A process of the recipe's own is stronger than the variant's."""
    assert compose("ddpm", "digits-vp")["denoiser"]["process"]["init_args"] == {"schedule": "linear"}
    assert compose("ddpm", "digits-vp")["denoiser"]["prediction"] == "eps"
    assert compose("ddgan", "digits-vp")["denoiser"]["net"]["init_args"]["resnet_time_scale_shift"] == "scale_shift"


def test_a_misspelt_variant_is_answered_with_a_setting():
    with pytest.raises(ValueError, match=r"unknown setting 'digits-v': did you mean digits-vp\?"):
        compose("diffusion", "digits-v")


def test_bases_in_a_circle_are_refused(tmp_path):
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text(f"base: {other}\n")
    other.write_text(f"like: {one}\n")
    with pytest.raises(ValueError, match="are like each other: one must stand by itself"):
        compose("diffusion", str(one))


def test_a_setting_without_the_networks_of_a_gan_says_so(tmp_path, capsys):
    assert main(["fit", "wgan", "--on", "sd15", "--data", "digits", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "latent_generator" in line
    assert "the setting sd15 does not have" in line


@pytest.mark.parametrize(("setting", "own"), [("emoji32", {"size": 16}), ("grid25", {"path": "grid25"})])
def test_data_of_a_methods_own_keeps_nothing_of_what_settings_say_of_theirs(setting, own):
    data = compose("asbm", setting)["data"]
    assert data["class_path"] == "sparring.data.UnpairedData"
    assert own.items() <= data["init_args"].items()
    assert not {"group_column", "pad", "side"} & set(data["init_args"])


def test_an_argument_of_a_class_within_a_class_can_be_set_to_null():
    made = compose("am_gan", "ring")
    before = deepcopy(made)
    flags = ["--generator.net.num_classes", "null", "--generator.num_classes=null", "--generator.net.depth=4"]
    flags += [
        "--method.discriminator.init_args.clip=0.1",
        "--method.discriminator.last=null",
        "--method.penalty",
        "null",
    ]
    _, parsed = parse(made, flags, tuned=False)
    assert made == before
    generator, method = parsed.generator.init_args, parsed.method.init_args
    assert (generator.num_classes, generator.net.init_args.num_classes, generator.net.init_args.depth) == (
        None,
        None,
        4,
    )
    assert (method.discriminator.init_args.clip, method.discriminator.init_args.last) == (0.1, None)
    assert method.discriminator.init_args.net.init_args.out_shape == [9]
    assert method.penalty is None
    with pytest.raises(ValueError, match="nonsense"):
        parse(made, ["--generator.net.nonsense", "null"], tuned=False)
    made["method"]["init_args"]["discriminator"]["init_args"] = None  # a file with `init_args:` and nothing behind it
    with pytest.raises(ValueError, match=r"PlainDiscriminator|net"):
        parse(made, ["--method.discriminator.last=null"], tuned=False)


def test_times_of_another_law_keep_nothing_of_the_numbers_of_the_first():
    """Arguments of a class go to the class that takes its place, if that has any of their names: these have not."""
    made = recipe.resolve(compose("diffusion", "digits"), ["--method.times=LogitNormal"], None)
    times = recipe.resolved(*made)["method"]["init_args"]["times"]
    assert times["init_args"] == {"logit_mean": 0.0, "logit_std": 1.0, "shift": None}


def test_a_tuning_deals_its_noise_out_as_the_run_that_it_starts_from(tmp_path, capsys):
    """Also the tuning of a tuning; null switches it off, and the run is resumed as it is."""

    def tuned(name, init, *flags):
        command = ["fit", "diffusion", "--on", "tiny", "--init", str(tmp_path / init), "--out", str(tmp_path / name)]
        assert main([*command, *flags]) == 0
        return recipe.read_config(tmp_path / name)["denoiser"]["coupling"], capsys.readouterr().err

    assert main(["fit", "flow", "--on", "tiny", "--out", str(tmp_path / "flow")]) == 0
    first, said = tuned("tuned", "flow")
    assert first == {"class_path": "sparring.process.Assignment", "init_args": {"group": 2}}
    assert f"noise is dealt out as in {tmp_path / 'flow'}; --denoiser.coupling null" in said
    assert tuned("again", "tuned")[0] == first
    assert tuned("plain", "tuned", "--denoiser.coupling", "null")[0] is None
    coupling, said = tuned("last", "plain")
    assert coupling is None
    assert "dealt out" not in said
    assert main(["fit", "diffusion", "--resume", "--out", str(tmp_path / "tuned"), "--trainer.steps", "6"]) == 0
    assert recipe.read_config(tmp_path / "tuned")["denoiser"]["coupling"] == first


def test_a_coupling_of_a_class_that_nobody_allowed_is_not_taken_over():
    start = {"denoiser": {"process": {"init_args": {"coupling": {"class_path": "os.system"}}}}}
    taken = recipe.coupled(compose("diffusion", "tiny", tuned=True), start)
    with pytest.raises(ValueError, match=r"os\.system"):
        recipe.check_classes(taken, [])
    own = {"class_path": "sparring.process.Nearest"}
    has_one = {"denoiser": {"process": {"init_args": {"coupling": own}}}}
    assert recipe.coupled(has_one, start) is has_one
    assert recipe.coupled({"generator": {}}, start) == {"generator": {}}
