"""A run that is resumed goes on with the images that it was started with, or says in one line that they are others."""

import shutil

import pytest
import torch
from PIL import Image
from small_runs import method, trainer

from sparring.data import Digits, ImageFolder, TorchData
from sparring.runs import RunFolder


@pytest.fixture
def folder(tmp_path):
    """30 of the digits as files."""
    pixels = ((Digits().images(30)[:, 0] + 1) * 127.5).byte().numpy()
    (tmp_path / "set").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "set" / f"{number:02d}.png")
    return tmp_path / "set"


def test_images_that_changed_between_stop_and_resume_are_refused(folder, tmp_path):
    def run(steps: int):
        return trainer(tmp_path / "run", data=ImageFolder(str(folder), channels=1), steps=steps, batch_size=4)

    run(1).fit()
    config = (tmp_path / "run" / "config.yaml").read_text()
    added = folder / "99.png"
    shutil.copy(folder / "00.png", added)
    with pytest.raises(ValueError, match="`set` has 31 images, not the 30 that the run was started with: put"):
        run(2).fit(resume=True)
    added.unlink()
    (folder / "00.png").rename(added)
    with pytest.raises(ValueError, match="`set` has other images than the 30 that the run was started with"):
        run(2).fit(resume=True)
    assert (tmp_path / "run" / "config.yaml").read_text() == config  # nothing was touched
    added.rename(folder / "00.png")
    run(2).fit(resume=True)
    assert (tmp_path / "run" / "checkpoints" / "000002").is_dir()


def test_runs_of_before_the_fingerprint_go_on(folder, tmp_path):
    data = ImageFolder(str(folder), channels=1)
    trainer(tmp_path / "run", data=data, steps=1, batch_size=4).fit()
    run = RunFolder(tmp_path / "run")
    config = run.read_config()
    del config["made_with"]["data"]
    run.replace_config(config)
    trainer(tmp_path / "run", data=data, steps=2, batch_size=4).fit(resume=True)


class Pictures(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int):
        return Digits()[[index]][0][0], index % 10


def test_a_data_set_of_torch_is_named_and_its_adapter_trains(tmp_path):
    with pytest.raises(ValueError, match="`data` is a Pictures and no data set .*: wrap .*TorchData.dataset"):
        trainer(tmp_path / "run", data=Pictures(), steps=1)
    assert not (tmp_path / "run").exists()
    data = TorchData(Pictures(), num_classes=10, value_range=(-1, 1))
    trainer(tmp_path / "run", method=method("diffusion"), data=data, steps=1, batch_size=4).fit()
    assert (tmp_path / "run" / "checkpoints" / "000001").is_dir()
