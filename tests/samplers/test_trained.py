"""What a sampler is given must have been trained for it, as far as its run says."""

import pytest
import yaml

from sparring.recipes.systems import systems
from sparring.recipes.with_systems import class_of, sampling_systems
from sparring.samplers.gradients import GuidedByGradient
from sparring.samplers.guidance.inv_diff import InvDiff
from sparring.samplers.guidance.minority import MinorityGuidance
from sparring.samplers.trained import check_trained_by


def run_of(folder, class_path):
    """A run of a method, as far as its configuration goes."""
    folder.mkdir()
    text = yaml.safe_dump({"method": {"class_path": class_path, "init_args": {}}})
    (folder / "config.yaml").write_text(text)
    return str(folder)


def test_the_run_of_another_method_is_refused(tmp_path):
    other = run_of(tmp_path / "other", "sparring.methods.guides.noisy_classifier.NoisyClassifier")
    message = r"`classifier=.*other` was trained by NoisyClassifier, and a run of `fit minority_classifier` is needed"
    with pytest.raises(ValueError, match=message):
        MinorityGuidance(other)
    with pytest.raises(ValueError, match="`delta=.*` was trained by NoisyClassifier, and a run of"):
        InvDiff(other)
    check_trained_by(other, "classifier", ("ppap", "noisy_classifier"))
    with pytest.raises(ValueError, match="a run of `fit ppap` or `fit minority_classifier` is needed"):
        check_trained_by(other, "classifier", ("ppap", "minority_classifier"))


def test_what_does_not_say_by_what_it_was_trained_is_taken(tmp_path):
    own = run_of(tmp_path / "own", "mypackage.methods.Own")
    (tmp_path / "pipeline").mkdir()
    for source in (own, tmp_path / "pipeline", object()):
        check_trained_by(source, "classifier", ("ppap",))
    check_trained_by(run_of(tmp_path / "any", "sparring.methods.gan.gan.GAN"), "classifier", ())


def test_each_guided_sampler_names_methods_that_there_are():
    known = {one.recipe for one in systems() if one.file.startswith("methods/")}
    guided = [kind for name in sampling_systems() if issubclass(kind := class_of(name), GuidedByGradient)]
    assert len(guided) > 4
    for kind in guided:
        assert kind.trained_by
        assert set(kind.trained_by) <= known
