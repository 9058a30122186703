"""GET: the fixed point and its gradient of a linear map, the same of the network, the bank, what it refuses."""

import pytest
import torch

from sparring.data import Batch, Draws, StoredImages
from sparring.generators import Denoiser, LatentGenerator
from sparring.methods.distillation.get import GET
from sparring.networks import MLP, EquilibriumTransformer, Perceptron
from sparring.networks.fixed_point import fixed_point
from sparring.process import VP

PLANE = StoredImages(torch.zeros(10, 2, 1, 1), name="plane")


def linear(seed=0, scale=0.4):
    random = torch.Generator().manual_seed(seed)
    a = torch.randn(4, 4, generator=random, dtype=torch.float64)
    a = scale * a / torch.linalg.matrix_norm(a, 2)
    return a.requires_grad_(), torch.randn(4, generator=random, dtype=torch.float64).requires_grad_()


def test_the_fixed_point_of_a_linear_map_is_the_solution_of_its_equations():
    """z = A z + b with |A| < 1: the solver gives (I - A)^-1 b."""
    a, b = linear()
    found = fixed_point(lambda z: z @ a.T + b, torch.zeros(3, 4, dtype=torch.float64), 60)
    expected = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - a, b)
    torch.testing.assert_close(found.state, expected.expand(3, 4), rtol=0, atol=1e-14)
    assert found.residual.max() < 1e-14


@pytest.mark.parametrize("implicit", [True, False])
def test_both_gradients_of_a_fixed_point_are_the_solution_of_the_transposed_equations(implicit):
    """dL/db = (I - A)^-T v, dL/dA = (I - A)^-T v z^T."""
    a, b = linear()
    v = torch.randn(4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = fixed_point(lambda z: z @ a.T + b, torch.zeros(1, 4, dtype=torch.float64), 60, implicit=implicit)
    of_a, of_b = torch.autograd.grad((found.state[0] * v).sum(), [a, b])
    g = torch.linalg.solve((torch.eye(4, dtype=torch.float64) - a).T, v)
    torch.testing.assert_close(of_b, g, rtol=0, atol=1e-13)
    torch.testing.assert_close(of_a, torch.outer(g, found.state[0]), rtol=0, atol=1e-13)


def test_the_state_halfway_is_that_of_half_of_the_steps_either_way():
    a, b = linear()
    step, start = lambda z: z @ a.T + b, torch.zeros(1, 4, dtype=torch.float64)  # noqa: E731
    expected = start
    for _ in range(3):
        expected = step(expected)
    for implicit in (True, False):
        found = fixed_point(step, start, 6, implicit=implicit)
        torch.testing.assert_close(found.early, expected)
        last = step(step(step(expected)))
        torch.testing.assert_close(found.state, last)
        before = step(step(expected))
        torch.testing.assert_close(found.residual[0], (last - before).norm() / last.norm())


def network(**settings):
    torch.manual_seed(0)
    sizes = dict(width=16, heads=2, injections=1, blocks=2, size=4) | settings
    return EquilibriumTransformer(**sizes).double()


def test_the_networks_implicit_gradient_is_that_of_its_unrolled_steps():
    z = torch.randn(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slopes = {}
    for gradient in ("implicit", "unrolled"):
        net = network(iterations=160, gradient=gradient)
        solved = net.solve(z)
        assert solved.residual.max() < 1e-9
        solved.image.square().sum().backward()
        slopes[gradient] = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(slopes["implicit"], slopes["unrolled"], rtol=1e-6, atol=1e-6)


def test_the_image_depends_on_all_of_the_noise_and_rows_do_not_see_each_other():
    net, random = network(), torch.Generator().manual_seed(0)
    z = torch.randn(2, 16, generator=random, dtype=torch.float64, requires_grad=True)
    images = net(z)
    assert images.shape == (2, 1, 4, 4)
    (slope,) = torch.autograd.grad(images[0].square().sum(), z)
    assert (slope[0] != 0).all()
    assert (slope[1] == 0).all()
    torch.testing.assert_close(net(z[:1]), images[:1])


def test_patches_are_put_back_where_they_were_taken():
    net = network(channels=2, width=8)
    z = torch.arange(32, dtype=torch.float64).view(1, 32)
    patches = torch.nn.functional.unfold(z.view(1, 2, 4, 4), 2, stride=2).transpose(1, 2)
    net.read_out = torch.nn.Identity()
    torch.testing.assert_close(net.image(patches), z.view(1, 2, 4, 4))


def method_of(net=None, teacher=None, prepared=True, classes=None, **settings):
    torch.manual_seed(0)
    net = net or EquilibriumTransformer(channels=2, size=1, patch_size=1, width=8, heads=2, num_classes=classes)
    teacher = teacher or Denoiser(MLP(width=16, depth=1, num_class_embeds=classes), VP(), "v")
    chosen = dict(num_pairs=12, num_steps=5) | settings
    made = GET(LatentGenerator(net, 2, num_classes=classes), teacher, **chosen)
    if prepared:
        made.prepare(PLANE if classes is None else StoredImages(torch.zeros(6, 2, 1, 1), torch.arange(6) % 3), seed=3)
    return made


def batch_of(n=6, labels=None):
    return Batch(torch.zeros(n, 2, 1, 1), labels, Draws(0, phase="rollout"))


def test_it_learns_the_teachers_image_of_the_noise_that_it_is_given():
    method = method_of()
    rollout = method.rollout(batch_of())
    again = method.teacher.generate(VP().scheduler("unipc", "v"), 5, latents=method.noises.data)
    for row in range(6):
        place = (again == rollout.y[row]).flatten(1).all(1).nonzero().item()
        torch.testing.assert_close(rollout.x[row], method.generator(method.noises[place].flatten()[None])[0])
    losses = method.generator_loss(batch_of(), rollout)
    torch.testing.assert_close(losses["distance"], (rollout.x - rollout.y).abs().mean())
    torch.testing.assert_close(losses["early"], 0.5 * (rollout.early - rollout.y).abs().mean())
    shuffled = method_of(shuffled=True).rollout(batch_of())
    assert torch.equal(shuffled.y, rollout.y.roll(1, 0))
    assert torch.equal(shuffled.x, rollout.x)


def test_pairs_are_of_the_classes_of_the_batch():
    method, labels = method_of(classes=3), torch.tensor([2, 0, 1, 2, 0, 1])
    rollout = method.rollout(batch_of(labels=labels))
    for row, label in enumerate(labels.tolist()):
        place = (method.images == rollout.y[row]).flatten(1).all(1).nonzero().item()
        assert place // 4 == label
        z = method.noises[place].flatten()[None]
        torch.testing.assert_close(rollout.x[row], method.generator(z, labels[row : row + 1])[0])


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="EquilibriumTransformer, and the generator is a Perceptron"):
        method_of(net=Perceptron(in_features=2, out_shape=(2, 1, 1)))
    with pytest.raises(ValueError, match="the denoiser takes classes and the generator does not"):
        method_of(teacher=Denoiser(MLP(width=16, depth=1, num_class_embeds=3), VP(), "v"))
    with pytest.raises(ValueError, match="num_pairs=0"):
        method_of(num_pairs=0)
    with pytest.raises(ValueError, match="no pairs yet"):
        method_of(prepared=False).rollout(batch_of())
    for settings, words in (
        (dict(size=5), "must divide `size=5`"),
        (dict(heads=3), "`heads=3` the `width=64`"),
        (dict(iterations=0), "at least 1"),
        (dict(gradient="none"), "implicit or unrolled"),
    ):
        with pytest.raises(ValueError, match=words):
            EquilibriumTransformer(**settings)
    with pytest.raises(ValueError, match="give both or none"):
        EquilibriumTransformer(num_classes=3)(torch.zeros(1, 64))
