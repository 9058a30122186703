"""What a tuning trains, what it leaves alone, and what is shipped of it."""

from copy import deepcopy

import pytest
import torch
from diffusers import DiTTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel, UNet2DModel

from sparring.generators.merging import added_layers, lora_weights, merged_network
from sparring.networks.adapters import DiffFit, LoRA, Parts
from sparring.networks.frozen import copy_of_trained, frozen_tensors

UNET = dict(sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4)


def unet(attention=True):
    kinds = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    down, up = ("DownBlock2D", kinds[0]), (kinds[1], "UpBlock2D")
    return UNet2DModel(**UNET, down_block_types=down, up_block_types=up, attention_head_dim=8, add_attention=attention)


def text_unet():
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    return UNet2DConditionModel(
        **UNET, down_block_types=down, up_block_types=up, cross_attention_dim=8, attention_head_dim=8
    )


def dit():
    sizes = dict(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8, patch_size=2)
    return DiTTransformer2DModel(**sizes, in_channels=3, out_channels=3, num_embeds_ada_norm=4)


def sd3():
    return SD3Transformer2DModel(
        **dict(sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8),
        **dict(num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=8, pooled_projection_dim=8),
        pos_embed_max_size=8,
    )


NETWORKS = {"unet": unet, "no attention": lambda: unet(False), "text_unet": text_unet, "dit": dit, "sd3": sd3}
TUNINGS = {"lora": lambda: LoRA(rank=2, alpha=3), "difffit": DiffFit, "parts": lambda: Parts(pattern="bias")}


def made(kind):
    torch.manual_seed(0)
    net = NETWORKS[kind]().eval()
    for parameter in net.parameters():  # diffusers starts some layers at 0, behind which nothing shows
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return net


@torch.no_grad()
def output(net):
    generator = torch.Generator().manual_seed(1)
    rand = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    time = torch.tensor([7, 600])
    if isinstance(net, SD3Transformer2DModel):
        return net(rand(2, 4, 8, 8), rand(2, 3, 8), rand(2, 8), time).sample
    if isinstance(net, UNet2DConditionModel):
        return net(rand(2, 4, 8, 8), time, rand(2, 3, 8)).sample
    if isinstance(net, DiTTransformer2DModel):
        return net(rand(2, 3, 8, 8), time, torch.tensor([0, 3])).sample
    return net(rand(2, 3, 8, 8), time).sample


def move(net):
    """Changes every trained parameter."""
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("tuning", TUNINGS)
def test_starts_as_the_base_and_ships_a_plain_network_that_does_the_same(kind, tuning):
    net = made(kind).requires_grad_(False)  # which alone makes torch choose another kernel in one layer of SD3
    before, plain_before = output(net), deepcopy(net.state_dict())
    TUNINGS[tuning]().apply(net)
    assert torch.equal(output(net), before)
    frozen = deepcopy(frozen_tensors(net))
    move(net)
    after = output(net)
    assert (after - before).abs().max() > 1e-3
    plain = merged_network(net)
    assert type(plain) is type(net)
    assert {name: t.shape for name, t in plain.state_dict().items()} == {n: t.shape for n, t in plain_before.items()}
    torch.testing.assert_close(output(plain), after, rtol=1e-4, atol=1e-5)
    assert torch.equal(output(net), after)  # the trained network is left as it is
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in frozen_tensors(net).items())


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("unet", {"to_q", "to_k", "to_v", "to_out.0"}),
        ("dit", {"to_q", "to_k", "to_v", "to_out.0"}),
        ("sd3", {"to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}),
        ("no attention", {"conv_in", "conv1", "conv2", "conv", "conv_shortcut", "conv_out"}),
    ],
)
def test_lora_by_default_sits_on_attention_or_else_on_convolutions(kind, ends):
    net = made(kind)
    LoRA(rank=2).apply(net)
    names = added_layers(net)
    assert {next(end for end in sorted(ends) if name.endswith(end)) for name in names} == ends
    trained = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert len(trained) == 2 * len(names)


def test_lora_on_chosen_layers_in_float32_beside_a_base_in_half_precision():
    net = made("unet").to(torch.bfloat16)
    LoRA(rank=2, targets=["to_v", "conv1"]).apply(net)
    assert {name.split(".")[-1] for name in added_layers(net)} == {"to_v", "conv1"}
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in net.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    move(net)
    assert net(torch.randn(1, 3, 8, 8).bfloat16(), 3).sample.dtype == torch.bfloat16
    state = merged_network(net).state_dict()
    assert state["down_blocks.0.resnets.0.conv1.weight"].dtype == torch.float32
    assert state["down_blocks.0.resnets.0.conv2.weight"].dtype == torch.bfloat16


def test_difffit_trains_biases_norms_class_embeddings_and_scales():
    net = made("dit")
    weights = sum(p.numel() for p in net.parameters())
    DiffFit().apply(net)
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert all(name.endswith("bias") or ".gamma" in name or "class_embedder" in name for name in trained)
    assert sum(name.endswith("gamma") for name in trained) == 4  # attention and feed-forward of two blocks
    assert all(p.requires_grad for name, p in net.named_parameters() if name.endswith("bias"))
    assert sum(p.numel() for p in trained.values()) < weights / 5
    net = made("unet")
    DiffFit().apply(net)
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {"conv_norm_out.weight", "conv_in.bias"} <= trained
    assert "conv_in.weight" not in trained


def test_parts_trains_what_matches_and_nothing_else():
    net = made("unet")
    Parts(pattern=r"^mid_block.*to_[kv]").apply(net)
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    stem = "mid_block.attentions.0.to_"
    assert trained == {f"{stem}{part}" for part in ("k.weight", "k.bias", "v.weight", "v.bias")}


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        (lambda: LoRA(rank=0), "`rank=0` must be at least 1"),
        (lambda: LoRA(alpha=0), "`alpha=0` must be positive"),
        (lambda: LoRA(targets=["to_qq"]), "matches no linear or convolutional layer of UNet2DModel, which has: .*to_q"),
        (lambda: Parts(pattern="attentoins"), "matches no parameter of UNet2DModel, which has: .*attentions"),
        (lambda: Parts(pattern="mid_block.atentions.0.to_q.weight"), "which has: mid_block.attentions.0.to_q.weight"),
        (lambda: Parts(pattern="("), "is not a regular expression"),
    ],
)
def test_mistakes_are_named_in_one_line(tuning, words):
    net = made("unet")
    with pytest.raises(ValueError, match=words) as error:
        tuning().apply(net)
    assert "\n" not in str(error.value)


def test_a_copy_shares_what_is_frozen_and_nothing_else():
    net = made("sd3").train()
    LoRA(rank=2).apply(net)
    net.pos_embed.eval()
    copy = copy_of_trained(net)
    own, copied = (dict(n.named_parameters()) | dict(n.named_buffers()) for n in (net, copy))
    shared = {name for name in own if own[name].data_ptr() == copied[name].data_ptr()}
    assert shared == {name for name, p in net.named_parameters() if not p.requires_grad} | {"pos_embed.pos_embed"}
    move(net)
    assert not torch.equal(output(net.eval()), output(copy.eval()))


def test_adapters_are_shipped_at_scale_one_where_pipelines_load_them():
    for kind, part in (("text_unet", "unet"), ("sd3", "transformer")):
        net = made(kind)
        assert lora_weights(net) == {}
        LoRA(rank=2, alpha=6).apply(net)
        move(net)
        weights = lora_weights(net)
        name, layer = next(iter(added_layers(net).items()))
        down, up = (weights[f"{part}.{name}.lora_{side}.weight"] for side in "AB")
        torch.testing.assert_close(up @ down, layer.get_delta_weight("default"))
        assert len(weights) == 2 * len(added_layers(net))
    for kind in ("unet", "dit"):
        net = made(kind)
        LoRA(rank=2).apply(net)
        assert lora_weights(net) == {}


def test_a_network_is_merged_only_if_layers_were_added():
    net = made("unet")
    assert merged_network(net) is net
    LoRA(rank=2).apply(net)
    plain = merged_network(net)
    assert plain is not net
    assert added_layers(plain) == {}
    assert added_layers(net)
