"""GSDM: the graphs of Sudoku and of sorting, attention that keeps to them, what is known and what counts as solved."""

import pytest
import torch

from sparring.data import Digits, Draws, Sorting, Sudoku, sorting
from sparring.data.sudoku import encoded, every_grid, graph, is_solved
from sparring.generators import Denoiser
from sparring.methods.denoising.gsdm import GSDM
from sparring.networks import GraphTransformer
from sparring.process import VP


def net(**settings):
    torch.manual_seed(0)
    return GraphTransformer(**({"width": 16, "heads": 2, "blocks": 1} | settings)).double()


def puzzle(count=2, clues=0):
    data = Sudoku(clues=clues)
    return data[list(range(count))][0].double(), data.sources(list(range(count))).double()


def test_every_cell_excludes_seven_others():
    found = graph()
    assert torch.equal(found, found.T)
    assert (found.sum(1) == 8).all()  # with itself: 3 in its row, 3 in its column, 1 more in its box
    assert found[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 8, 12]


def test_there_are_288_grids_and_each_is_solved():
    grids = every_grid()
    assert grids.shape == (288, 16)
    assert len({tuple(grid) for grid in grids.tolist()}) == 288
    assert is_solved(grids).all()
    wrong = grids.clone()
    wrong[:, 0] = wrong[:, 5]  # in one box
    assert not is_solved(wrong)[grids[:, 0] != grids[:, 5]].any()


def test_puzzles_belong_to_their_grids_and_splits_share_none():
    data = Sudoku(clues=5)
    images, sources = data[[0, 19, 20, 4000]][0], data.sources([0, 19, 20, 4000])
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])
    known = sources != 0
    assert torch.equal(sources, images * known)
    assert known.sum((1, 2, 3)).tolist() == [20, 20, 20, 20]
    assert known.all(3).sum((1, 2)).tolist() == [5, 5, 5, 5]
    assert not torch.equal(sources[0], sources[1])
    assert torch.equal(data.sources([4000])[0], sources[3])
    assert len(data) == 20 * 216
    trained = {tuple(grid) for grid in data.grids.tolist()}
    assert trained.isdisjoint(tuple(grid) for grid in data.holdout().grids.tolist())
    assert len(data.holdout().grids) == 72


@pytest.mark.parametrize("mask", ["graph", "self", "full", "random"])
def test_a_layer_has_the_jacobian_of_its_mask(mask):
    made = net(mask=mask)
    x, source = puzzle(1)
    jacobian = torch.autograd.functional.jacobian(lambda image: made(image, 5.0, source)[0, 0], x)[:, :, 0, 0]
    seen = jacobian.abs().sum((1, 3)) > 0
    assert torch.equal(seen, made.allowed)
    edges = {"graph": graph(), "self": torch.eye(16).bool(), "full": torch.ones(16, 16).bool()}
    assert torch.equal(made.allowed, edges[mask]) if mask in edges else made.allowed.sum() == graph().sum()
    if mask == "random":
        assert not torch.equal(made.allowed, graph())


def test_two_layers_reach_every_cell():
    x, source = puzzle(1)
    made = net(blocks=2)
    jacobian = torch.autograd.functional.jacobian(lambda image: made(image, 5.0, source)[0, 0], x)[:, :, 0, 0]
    assert (jacobian.abs().sum((1, 3)) > 0).all()


def test_cells_that_the_graph_does_not_tell_apart_are_treated_alike():
    """Two rows of a band change places, and so do two columns of one: the graph is the same, and so is the output."""
    made, (x, source) = net(places=False, blocks=3), puzzle(2, clues=4)
    cells = torch.arange(16).view(4, 4)[[1, 0, 2, 3]][:, [0, 1, 3, 2]].flatten()
    assert torch.equal(graph()[cells][:, cells], graph())
    torch.testing.assert_close(made(x[:, :, cells], 5.0, source[:, :, cells]), made(x, 5.0, source)[:, :, cells])
    other = torch.arange(16).view(4, 4)[[2, 1, 0, 3]].flatten()  # rows of two bands: another graph
    swapped = made(x[:, :, other], 5.0, source[:, :, other])
    assert not torch.allclose(swapped, made(x, 5.0, source)[:, :, other])


def test_known_cells_come_back_and_others_are_expected_rows():
    made, (x, source) = net(), puzzle(3, clues=6)
    noisy = torch.randn(3, 1, 16, 4, dtype=torch.float64)
    output, known = made(noisy, 500.0, source)[:, 0], source[:, 0] != 0
    assert torch.equal(output[known], x[:, 0][known])
    torch.testing.assert_close(output[~known].view(-1, 4).sum(1), torch.full((30,), -2.0, dtype=torch.float64))
    noisy[:, 0][known] = 7.0  # what is known is not seen noisy
    torch.testing.assert_close(
        made(noisy, 500.0, source)[:, 0], made(torch.where(known, x[:, 0], noisy[:, 0])[:, None], 500.0, source)[:, 0]
    )


def test_solved_is_a_grid_that_keeps_what_is_known():
    denoiser = Denoiser(net().float(), VP(), "x0")
    method, data = GSDM(denoiser), Sudoku(clues=4)
    held = data.holdout().images(500)
    denoiser.generate = lambda *_, latents, condition: held
    assert method.measures(denoiser, data, Draws(0)) == {"solved": 1.0, "as_known": 1.0}
    denoiser.generate = lambda *_, latents, condition: encoded(every_grid()[:1].expand(500, -1))  # of another puzzle
    assert method.measures(denoiser, data, Draws(0))["solved"] < 0.1
    denoiser.generate = lambda *_, latents, condition: torch.zeros(500, 1, 16, 4)
    assert method.measures(denoiser, data, Draws(0)) == {"solved": 0.0, "as_known": 0.0}
    assert method.measures(denoiser, Digits(), Draws(0)) == {}


def test_the_graph_of_sorting_two_numbers():
    """u0 u1 s0 s1, P row after row at 4 to 7, K at 8 to 11."""
    found = sorting.graph(2)
    assert torch.equal(found, found.T)
    neighbours = [set(row.nonzero().flatten().tolist()) for row in found]
    assert neighbours[0] == {0, 8, 10}  # u_0 is a factor of K_00 and K_10
    assert neighbours[2] == {2, 3, 8, 9}  # s_0 is the sum of K_00 and K_01, and no more than s_1
    assert neighbours[4] == {4, 5, 6, 8}  # P_00: one 1 in its row and in its column; K_00
    assert neighbours[11] == {1, 3, 7, 11}
    assert sorting.graph(5).sum() == 60 + 2 * (4 + 3 * 25 + 2 * 25 * 4 / 2)


def test_a_sorted_problem_is_what_its_variables_mean():
    data = Sorting(numbers=4)
    images, known = data[[0, 7]][0][:, 0], data.sources([0, 7])[:, 0]
    drawn, ordered, permutation, summands = images.split([4, 4, 16, 16], 1)
    assert torch.equal(known[:, :4], drawn)
    assert not known[:, 4:].any()
    assert torch.equal(ordered[..., 0], drawn[..., 0].sort(1).values)
    entries = permutation.argmax(2).view(2, 4, 4).float()
    assert torch.equal(permutation.sum(2), torch.zeros(2, 16))
    torch.testing.assert_close((entries @ drawn[..., :1])[..., 0], ordered[..., 0])
    torch.testing.assert_close(summands[..., 0].view(2, 4, 4), entries * drawn[:, None, :, 0])
    assert not images[:, sorting.continuous(4), 1].any()
    held = data.holdout()
    assert held.numbers == 4
    assert not torch.equal(held[[0]][0], data[[0]][0])
    true = images[:, None]
    assert data.counted(true, true, known[:, None]) == {"solved": 1.0}
    assert data.counted(true.flip(0), true, known[:, None]) == {"solved": 0.0}
    almost = true.clone()
    almost[0, 0, 8] = almost[0, 0, 8].flip(0)  # one entry of the permutation
    assert data.counted(almost, true, known[:, None]) == {"solved": 0.5}


def test_numbers_have_one_column_and_are_not_squashed():
    made, data = net(edges="sorting", variables=24, values=2, blocks=2), Sorting(numbers=3)
    with torch.no_grad():
        made.read_out[1].bias.fill_(5.0)
    noisy, source = torch.randn(2, 1, 24, 2).double(), data.sources([0, 1]).double()
    output = made(noisy, 5.0, source)[:, 0]
    numbers = sorting.continuous(3)
    assert not output[:, numbers, 1].any()
    assert output[:, 3:6, 0].min() > 1
    torch.testing.assert_close(output[:, 6:15].sum(2), torch.zeros(2, 9).double())
    other = noisy.clone()
    other[:, :, numbers, 1] = 9.0  # the unused column is not read
    assert torch.equal(made(other, 5.0, source)[:, 0], output)
    jacobian = torch.autograd.functional.jacobian(lambda image: made(image, 5.0, source)[:, 0], noisy)[
        0, ..., 0, 0, :, :
    ]
    reached = (sorting.graph(3).float() @ sorting.graph(3).float()) > 0
    assert not (jacobian.abs().sum((1, 3)) > 0)[~reached].any()


def test_what_it_refuses():
    with pytest.raises(ValueError, match="`split=test`"):
        Sorting("test")
    with pytest.raises(ValueError, match="`numbers=1`"):
        Sorting(numbers=1)
    with pytest.raises(ValueError, match="`variables=16`: sorting n numbers has"):
        net(edges="sorting")
    with pytest.raises(ValueError, match="`clues=16`"):
        Sudoku(clues=16)
    with pytest.raises(ValueError, match="`split=test`"):
        Sudoku("test")
    with pytest.raises(ValueError, match="`mask=dense`"):
        net(mask="dense")
    with pytest.raises(ValueError, match="`edges` must be sorting, or 16 lists"):
        net(edges=[[0, 1], [1, 0]])
