"""`sparring encoder`: a file that judges look through and that images are measured in."""

import pytest
import torch

from sparring.backbones import FileEncoder
from sparring.cli.main import main
from sparring.data import Digits, StoredImages
from sparring.evaluation.evaluator import feature_network
from sparring.metrics import cache, extract, learned_features
from sparring.training.encoder import neighbours_right, train_encoder


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoders") / "new" / "encoder.safetensors"
    code = main(["encoder", "digits", "--out", str(path), "--widths", "4", "6", "--epochs", "1", "--seed", "3"])
    assert code == 0
    return path


def test_the_command_writes_an_encoder_and_says_how_good_it_is(tmp_path, capsys):
    out = tmp_path / "classes.safetensors"
    assert main(["encoder", "digits", "--kind", "classifier", "--out", str(out), "--widths", "8", "--epochs", "2"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{out}: classifier, 1000 images, ")
    assert second.startswith("held-out accuracy: ")
    assert third.startswith("labels from 5 nearest neighbours: ")
    assert "untrained" in third
    assert FileEncoder(path=str(out)).classifier.out_features == 10


def test_its_features_are_standardised_over_the_training_images(file):
    features = feature_network(str(file), Digits("holdout"), Digits())
    rows = extract(features, Digits().images())
    torch.testing.assert_close(rows.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.std(0), torch.ones(6), atol=1e-4, rtol=0)
    assert features.name == "convnet-4-6-self-supervised of encoder.safetensors"
    assert features.features_and_logits(Digits().images(5))[1] is None


def test_features_without_labels_are_made_once(tmp_path):
    images = Digits().images(100)

    def fit(seed=2000):
        return learned_features(images, cache=tmp_path, widths=(4, 6), epochs=1, seed=seed)

    features = fit()
    assert features.name == "self-supervised 4-6"
    torch.testing.assert_close(extract(features, images).std(0), torch.ones(6), atol=1e-4, rtol=0)
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    assert cache.of_backbone(fit()) == cache.of_backbone(features)
    assert kept.stat().st_mtime_ns == written
    assert cache.of_backbone(fit(seed=1)) != cache.of_backbone(features)
    assert fit(seed=1).name == "self-supervised 4-6 (seed 1)"


def test_features_without_labels_by_name(monkeypatch):
    """They are learned from the training images and from nothing else."""
    seen = []
    monkeypatch.setattr("sparring.evaluation.features.learned_features", lambda images, **_: seen.append(images))
    feature_network("self-supervised", Digits("holdout"), Digits())
    assert torch.equal(seen[0], Digits().images())
    with pytest.raises(ValueError, match="needs training images"):
        feature_network("self-supervised", Digits("holdout"), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--out", "x.pt"], "`out=x.pt` must end in .safetensors"),
        (["digits", "--out", "x.safetensors", "--widths", "0"], "`widths=[0]`"),
        (["nothing", "--out", "x.safetensors"], "`nothing` is no data set"),
    ],
)
def test_user_errors(arguments, message, capsys):
    assert main(["encoder", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_classifier_needs_labels(tmp_path):
    with pytest.raises(ValueError, match="`kind=classifier` needs labels and `images` has none: use self-supervised"):
        train_encoder(StoredImages(torch.zeros(20, 1, 8, 8)), tmp_path / "x.safetensors", kind="classifier")


def test_a_file_that_is_there_stays(file):
    before = file.read_bytes()
    with pytest.raises(ValueError, match="is there already"):
        train_encoder(Digits(), file)
    assert file.read_bytes() == before


def test_neighbours_by_hand():
    """Angles from the asked direction, nearest first, have the labels 0, 1, 1, 2, 2, 2: each k has its own answer."""
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    lengths = torch.tensor([1.0, 9.0, 0.1, 3.0, 20.0, 5.0])  # the cosine does not see them
    known = torch.stack([angles.cos(), angles.sin()], dim=1) * lengths[:, None]
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    asked = torch.tensor([[5.0, 0.0]])
    for k, answer in ((1, 0), (3, 1), (6, 2), (99, 2)):
        for truth in range(3):
            assert neighbours_right(known, labels, asked, torch.tensor([truth]), k=k) == (truth == answer)


def test_the_share_of_neighbours_looks_at_five_by_itself():
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    known = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([1, 1, 0, 0, 0, 1, 1])
    assert neighbours_right(known, labels, torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 1


@pytest.mark.parametrize("place", ["file/x.safetensors", "/proc/none/x.safetensors"])
def test_a_place_that_cannot_be_written_is_said_before_training(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr("sparring.backbones.SmallConvNet.prepare", lambda *_: pytest.fail("was trained"))
    assert main(["encoder", "digits", "--out", str(tmp_path / place)]) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert error.count("\n") == 1
