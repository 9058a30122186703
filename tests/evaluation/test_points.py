"""Numbers of points whose density is known: real ones, lost modes, and through the command line."""

import json

import pytest
import torch

from sparring.cli.main import main
from sparring.data import GaussianGrid, GaussianMixture, SwissRoll
from sparring.evaluation.points import numbers, with_points
from sparring.runs.results import Floor, Result


def test_real_points_cover_all_modes_and_nearly_all_are_good():
    """In the plane 1 - exp(-9/2) = 98.9 % of a Gaussian lie within three standard deviations."""
    for data, modes in ((GaussianMixture(), 8), (GaussianGrid(), 25)):
        found = numbers(data.sample(20_000, seed=1), data.holdout())
        assert found["modes_covered"] == modes
        assert found["good_share"] == pytest.approx(0.9889, abs=0.003)
        assert found["sliced_wasserstein"] < 0.05


def test_lost_modes_and_points_between_them():
    data = GaussianMixture()
    three = data.centres[torch.arange(30) % 3][:, :, None, None]
    found = numbers(three, data.holdout())
    assert (found["modes_covered"], found["good_share"]) == (3, 1.0)
    assert found["sliced_wasserstein"] > 0.3
    assert numbers(torch.zeros(10, 2, 1, 1), data.holdout())["good_share"] == 0


def test_a_density_without_modes_has_a_distance_only():
    data = SwissRoll(num_samples=500)
    result = with_points(Result(frechet=0.0, floor=Floor(n=100)), data.sample(100, seed=1), data.holdout(), data)
    assert result.floor is not None
    assert (result.modes_covered, result.good_share, result.floor.good_share) == (None, None, None)
    assert 0 < result.floor.sliced_wasserstein < 0.2
    assert 0 < result.sliced_wasserstein < 0.2
    assert set(numbers(data.sample(10, seed=1), data)) == {"sliced_wasserstein"}


def test_evaluate_measures_points_as_they_are(tmp_path, capsys):
    run, settings = tmp_path / "run", ["--trainer.steps=4", "--trainer.num_samples=20", "--trainer.tracker=null"]
    assert main(["fit", "diffusion", "--data", "ring", "--data.num_samples=300", "--out", str(run), *settings]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--n", "200", "--steps", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["features"] == "points"
    assert result["floor"]["modes_covered"] == 8
    assert result["floor"]["good_share"] > 0.95
    assert 0 <= result["good_share"] < 0.6  # hardly trained
    assert 0 <= result["modes_covered"] <= 8
    assert "features_accuracy" not in result
    assert main(["evaluate", str(run), "--n", "200", "--steps", "3"]) == 0
    assert "good_share" in capsys.readouterr().out
    page = (run / "report.html").read_text()
    assert "three standard deviations of a mode" in page
    assert " modes are covered, and " in page
    assert main(["evaluate", str(run), "--n", "200", "--steps", "3", "--seeds", "0", "1"]) == 0
    several = capsys.readouterr().out
    assert "modes_covered" in several
    assert "good_share" in several
    assert main(["compare", str(run)]) == 0
    assert f"{result['modes_covered']:.1f} ({result['good_share']:.1%})" in capsys.readouterr().out


def test_what_is_no_picture_is_measured_in_all_of_its_values():
    from sparring.data import Digits, Sudoku
    from sparring.evaluation.features import default_features, feature_network

    codes = Sudoku("holdout")
    assert default_features(codes, Sudoku()) == "values"
    some = codes.images(3)
    assert torch.equal(feature_network("values", codes, None)(some), some.flatten(1))
    assert feature_network("pixels", codes, None)(some).unique().tolist() == [-0.5]  # a mean over a row of a valid grid
    assert default_features(Digits("holdout"), Digits()) == "classifier"
