"""Advantages and the clipped loss of policy gradients, by hand."""

import pytest
import torch

from sparring.objectives.policy import advantages_in_group, clipped_policy_loss, generalised_advantages


def test_advantages_by_hand():
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, 1.0, 2.0, 3.0]])
    all_rewards = generalised_advantages(rewards, torch.zeros(1, 4), 0.5, 1.0)
    torch.testing.assert_close(all_rewards, torch.tensor([[3.0, 4.0, 4.0]]))
    one_step = generalised_advantages(rewards, values, 0.5, 0.0)
    torch.testing.assert_close(one_step, torch.tensor([[1 + 0.5 - 0.5, 2 + 1.0 - 1.0, 4 + 1.5 - 2.0]]))
    mixed = generalised_advantages(rewards, values, 0.5, 0.5)
    torch.testing.assert_close(mixed, torch.tensor([[1 + 0.25 * (2 + 0.25 * 3.5), 2 + 0.25 * 3.5, 3.5]]))


def test_the_policys_loss_follows_the_advantage_until_the_ratio_leaves_the_clip():
    ratio = torch.tensor([1.0, 1.5, 1.5, 0.5, 0.5], requires_grad=True)
    advantages = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0])
    loss = clipped_policy_loss(ratio, advantages, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-(2 + 1.2 - 1.5 + 0.5 - 0.8) / 5)
    torch.testing.assert_close(ratio.grad, -torch.tensor([2.0, 0.0, -1.0, 1.0, 0.0]) / 5)


def test_advantages_are_z_scores_and_bounded():
    torch.testing.assert_close(
        advantages_in_group(torch.tensor([[0.0, 1.0], [3.0, 3.0]]).double()),
        torch.tensor([[-(0.5**0.5), 0.5**0.5], [0.0, 0.0]]).double(),
        rtol=1e-3,
        atol=1e-9,
    )
    rewards = torch.zeros(1, 40).double()
    rewards[0, 0] = 1.0
    assert advantages_in_group(rewards)[0, 0] == 5.0
