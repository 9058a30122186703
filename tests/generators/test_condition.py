"""Captions become what diffusers' own pipelines make of them; labels and captions can be said to be "none"."""

import warnings
from copy import deepcopy

import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline, DiTTransformer2DModel, UNet2DModel
from rollout_parts import batch_of, closed_form
from tiny_pipelines import Captioned
from torch import nn

from sparring.data import Batch, Draws, StoredImages
from sparring.generators import Denoiser, Pretrained, TextCondition, family_of, load_pipeline
from sparring.generators.condition import concatenate, select_rows
from sparring.process import VP, RectifiedFlow, Uniform, set_timesteps
from sparring.rollout import one_step, simulate

TEXTS = ["a red apple", "zebra", ""]
ABSENT = {"sd3": {"text_encoder_3": None, "tokenizer_3": None}}


class ClassNet(nn.Module):
    """A smooth network in float64 for 3 classes and "none"; it remembers what it was shown."""

    num_classes = 4

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.time, self.embedding = nn.Linear(1, 4), nn.Embedding(4, 4)
        self.double()
        self.calls = []

    def forward(self, x, time, labels):
        told = self.time(time[:, None] / 1000) + self.embedding(labels)
        output = self.last(torch.tanh(self.first(x) + told[:, :, None, None]))
        self.calls.append((x, time, labels, output))
        return output


def unet(**settings):
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False)
    sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1)
    return UNet2DModel(block_out_channels=(8,), norm_num_groups=4, **sizes, **blocks, **settings)


# -- captions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_captions_and_no_caption_are_embedded_as_the_pipeline_does_it(tiny, kind):
    pipe = DiffusionPipeline.from_pretrained(tiny(kind), **ABSENT.get(kind, {}))
    further = {} if kind == "sd15" else {"prompt_2": None} | ({"prompt_3": None} if kind == "sd3" else {})
    found = pipe.encode_prompt(
        prompt=TEXTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True, **further
    )
    tokens, no_tokens, pooled, no_pooled = found if len(found) == 4 else (*found, None, None)
    text = load_pipeline(tiny(kind))[0].text
    told = text(TEXTS, (24, 32), "cpu")
    none = text.empty(told)
    assert torch.equal(told.tokens, tokens)
    torch.testing.assert_close(none.tokens, no_tokens, rtol=0, atol=1e-6)
    assert not torch.equal(told.tokens[0], told.tokens[1])
    if pooled is not None:
        assert torch.equal(told.pooled, pooled)
        torch.testing.assert_close(none.pooled, no_pooled, rtol=0, atol=1e-6)
    if kind == "sdxl":
        assert told.sizes.tolist() == none.sizes.tolist() == [[24, 32, 0, 0, 24, 32]] * 3
        assert not none.tokens.any()  # `force_zeros_for_empty_prompt`
    else:
        assert told.sizes is None


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_encoders_and_autoencoder_are_frozen_shared_and_no_part_of_the_network(tiny, kind):
    denoiser = load_pipeline(tiny(kind))[0]
    copy = deepcopy(denoiser)
    assert copy.space is denoiser.space
    assert copy.text is denoiser.text
    assert copy.net is not denoiser.net
    frozen = [*denoiser.text.encoders, denoiser.space.vae]
    assert len(frozen) == (2 if kind == "sd15" else 3)
    denoiser.train()
    assert not any(module.training or parameter.requires_grad for module in frozen for parameter in module.parameters())
    assert {name.split(".")[0] for name in denoiser.state_dict()} == {"net"}


def test_a_text_condition_is_cut_and_joined_like_a_tensor():
    numbers = torch.arange(4.0)
    told = TextCondition(numbers.view(4, 1, 1), numbers.view(4, 1), numbers.view(4, 1))
    other = told.map(lambda x: x + 10)
    assert len(told) == 4
    assert told[1:3].pooled.flatten().tolist() == [1, 2]
    assert concatenate(told, other).tokens.flatten().tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
    mask = torch.tensor([True, False, False, True])
    for part in ("tokens", "pooled", "sizes"):
        assert getattr(select_rows(mask, told, other), part).flatten().tolist() == [0, 11, 12, 3]
    assert select_rows(mask, numbers, numbers + 10).tolist() == [0, 11, 12, 3]
    assert select_rows(mask, told[0:4], other).to(torch.float64).tokens.dtype == torch.float64


def test_pipelines_data_and_batches_that_do_not_fit_are_refused(tiny):
    with pytest.raises(ValueError, match="a DDPMPipeline takes its captions in a way that is unknown here"):
        family_of(DDPMPipeline(unet(), VP().scheduler("ddpm", "v")))
    text, plain = load_pipeline(tiny("sd15"))[0], Denoiser(unet(), VP(), "v")
    images = StoredImages(torch.zeros(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="takes captions and `images` has none: name their column"):
        text.check_condition(images)
    with pytest.raises(ValueError, match="`text_column`: UNet2DModel takes no captions"):
        plain.check_condition(Captioned())
    batch = Batch(images.images(), images.labels())
    with pytest.raises(ValueError, match="UNet2DConditionModel takes captions and there are none"):
        text.embed(batch)
    with pytest.raises(ValueError, match="takes captions, and the batch was not embedded"):
        text(torch.zeros(4, 4, 8, 8), torch.full((4,), 0.5), batch.condition)
    with pytest.raises(ValueError, match="sides must be multiples of 2"):
        text.check_shape((3, 16, 15))
    text.check_shape((3, 16, 24))  # another size than that of the configuration


def test_a_batch_of_pixels_and_labels_is_embedded_for_nothing():
    batch = batch_of(labels=torch.tensor([0, 1, 2]))
    assert Denoiser(ClassNet(), VP(), "v").embed(batch) is batch
    assert batch.x_0 is batch.images
    assert batch.condition is batch.labels


def test_embedding_does_not_depend_on_how_the_batch_is_cut(tiny):
    denoiser, data = load_pipeline(tiny("sdxl"))[0], Captioned()
    images, texts = data[range(4)]
    whole = denoiser.embed(Batch.of(images, texts, Draws(0)))
    assert whole.x_0.shape == (4, 4, 8, 8)
    for rows in (slice(0, 1), slice(1, 4)):
        part = denoiser.embed(Batch.of(images[rows], texts[rows], Draws(0, rows=rows, total=4)))
        torch.testing.assert_close(part.x_0, whole.x_0[rows], rtol=0, atol=1e-5)
        torch.testing.assert_close(part.condition.tokens, whole.condition.tokens[rows], rtol=0, atol=1e-5)
        assert torch.equal(part.condition.sizes, whole.condition.sizes[rows])


LONG = "a b c d e f g h i j k l m n o p q r s"  # 19 tokens and two ends; the tiny tokenizers take 16


class WithCaptions(Captioned):
    """The images of `Captioned` with other captions."""

    def __init__(self, captions):
        super().__init__()
        self.texts = captions

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, indices):
        return super().__getitem__(indices)[0], [self.texts[i] for i in indices]


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3"])
def test_captions_that_are_cut_are_counted_in_one_warning(tiny, kind):
    denoiser = load_pipeline(tiny(kind))[0]
    words = "are longer than the 16 tokens that the text encoder takes: their ends are not seen"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        denoiser.check_condition(WithCaptions(["short", LONG, LONG[:27], LONG[:29]]))  # 16 tokens, 17
        denoiser.sample(2, 1, prompts=["short"])
        denoiser.sample(2, 1, prompts=["short", LONG])
    said = [str(warning.message) for warning in caught if "tokens" in str(warning.message)]
    assert said == [f"2 of 4 captions of the data {words}", f"1 of 2 prompts {words}"]


def test_a_caption_that_one_encoder_sees_whole_is_not_cut(tiny):
    denoiser = load_pipeline(tiny("sdxl"))[0]
    denoiser.text.pipe.tokenizer_2.model_max_length = 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoiser.check_condition(WithCaptions([LONG]))
        with pytest.raises(UserWarning, match="1 of 1 captions of the data are longer than the 30 tokens"):
            denoiser.check_condition(WithCaptions([LONG + LONG]))


# -- guidance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [(VP(), "eps", "ddim"), (RectifiedFlow(), "flow", "euler")])
@pytest.mark.parametrize("guidance", [1.0, 3.0, 0.0])
def test_the_gradient_of_a_guided_rollout_is_that_of_its_closed_form(path, guidance):
    """c_i w df(x_i, label), summed over the steps with gradient; the others call f once, on both conditions."""
    process, kind, name = path
    network, labels, direction = ClassNet(), torch.tensor([0, 1, 2]), torch.randn(3, 1, 4, 4, dtype=torch.float64)
    denoiser = Denoiser(network, process, kind)
    settings = dict(num_steps=4, grad_steps=[1, 3], guidance=guidance)
    image = simulate(denoiser, batch_of(labels=labels), process.scheduler(name, kind), **settings)
    parameters = list(network.parameters())
    found = torch.autograd.grad((image * direction).sum(), parameters)
    calls, network.calls = network.calls, []
    assert [len(x) for x, *_ in calls] == ([3] * 4 if guidance == 1 else [6, 3, 3, 6, 3, 3])
    carrying = [call for call in calls if len(call[0]) == 3 and call[2].tolist() == [0, 1, 2]]
    carrying = carrying[1::2] if guidance == 1 else carrying
    c, expected = closed_form(path, 4), [torch.zeros_like(p) for p in parameters]
    for i, (x, time, *_) in zip(settings["grad_steps"], carrying, strict=True):
        gradients = torch.autograd.grad((network(x.detach(), time, labels) * direction).sum(), parameters)
        expected = [e + guidance * c[i] * g for e, g in zip(expected, gradients, strict=True)]
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 2e-6 * other.norm()


def test_guided_samples_follow_the_formula_at_every_step():
    network, labels = ClassNet(), torch.tensor([0, 1])
    latents, scheduler = torch.randn(2, 1, 4, 4, dtype=torch.float64), VP().scheduler("ddim", "v")
    image = Denoiser(network, VP(), "v").generate(scheduler, 4, latents=latents, condition=labels, guidance=2.5)
    outputs = [output for *_, output in network.calls]
    assert all(told.tolist() == [3, 3, 0, 1] for _, _, told, _ in network.calls)
    x = latents
    set_timesteps(scheduler, 4)
    for time, output in zip(scheduler.timesteps, outputs, strict=True):
        x = scheduler.step(-1.5 * output[:2] + 2.5 * output[2:], time, x).prev_sample
    torch.testing.assert_close(image, x)


def test_the_class_that_means_none():
    dit = DiTTransformer2DModel(sample_size=8, num_layers=1, num_attention_heads=1, num_embeds_ada_norm=5)
    assert Denoiser(dit, VP(), "eps").null_class == 5
    assert Denoiser(unet(num_class_embeds=5), VP(), "eps").null_class == 4
    with pytest.raises(ValueError, match="UNet2DModel takes neither classes nor captions"):
        Denoiser(unet(), VP(), "v", condition_dropout=0.1)
    with pytest.raises(ValueError, match="`condition_dropout=1.0` must lie in"):
        Denoiser(unet(num_class_embeds=5), VP(), "v", condition_dropout=1.0)
    data = StoredImages(torch.zeros(5, 1, 8, 8), torch.arange(5))
    denoiser = Denoiser(unet(num_class_embeds=6), VP(), "v", condition_dropout=0.1)
    denoiser.check_condition(data)
    full = 'UNet2DModel has 5 classes, the data 5, and none is left to say "none" by: build it with one more'
    with pytest.raises(ValueError, match=full):
        Denoiser(unet(num_class_embeds=5), VP(), "v", condition_dropout=0.1).check_condition(data)
    guided = Denoiser(unet(num_class_embeds=5), VP(), "v")
    guided.check_condition(data)
    with pytest.raises(ValueError, match=full):
        guided.unconditional(torch.tensor([0, 1]))


# -- dropping labels and captions --------------------------------------------------------------------------------------


def test_labels_are_dropped_in_training_by_the_batchs_draws_alone():
    network = ClassNet()
    denoiser = Denoiser(network, VP(), "v", condition_dropout=0.25)
    labels = torch.arange(3).repeat(400)

    def told(draws, rows=slice(None)):
        network.calls.clear()
        images = torch.zeros(1200, 1, 2, 2, dtype=torch.float64)[rows]
        one_step(denoiser, Batch(images, labels[rows], draws), Uniform())
        return network.calls[0][2]

    whole = told(Draws(3))
    dropped = whole == 3
    assert torch.equal(whole[~dropped], labels[~dropped])
    assert 0.2 < dropped.double().mean() < 0.3  # 0.25 with a deviation of 0.0125
    parts = [told(Draws(3, rows=rows, total=1200), rows) for rows in (slice(0, 500), slice(500, 1200))]
    assert torch.equal(torch.cat(parts), whole)
    denoiser.eval()
    assert torch.equal(told(Draws(3)), labels)


def test_without_dropout_no_number_is_drawn_for_it():
    draws = [Draws(1), Draws(1)]
    for one, dropout in zip(draws, (0.0, 0.5), strict=True):
        denoiser = Denoiser(ClassNet(), VP(), "v", condition_dropout=dropout)
        one_step(denoiser, Batch(torch.zeros(2, 1, 4, 4).double(), torch.tensor([0, 1]), one), Uniform())
    plain = Draws(1)
    plain.uniform((2,))
    plain.normal((2, 1, 4, 4))
    assert torch.equal(draws[0].normal((2, 1)), plain.normal((2, 1)))
    assert not torch.equal(draws[1].normal((2, 1)), plain.normal((2, 1)))


def test_captions_are_dropped_to_the_empty_prompt(tiny):
    denoiser = load_pipeline(tiny("sdxl"))[0].train()
    denoiser.condition_dropout = 0.5
    batch = denoiser.embed(Batch(torch.zeros(8, 3, 16, 16), texts=["zebra"] * 8, draws=Draws(2)))
    told = denoiser.condition_with_dropout(batch)
    none = (told.tokens == 0).flatten(1).all(1)
    assert 1 <= none.sum() <= 7
    assert torch.equal(none, (told.pooled == 0).all(1))
    assert torch.equal(told.tokens[~none], batch.condition.tokens[~none])
    assert torch.equal(told.sizes, batch.condition.sizes)


def test_a_dit_leaves_dropping_to_us(tiny):
    """diffusers' own dropping follows torch's global generator, knows nothing of rows, and would go on in a rollout."""
    net = DiTTransformer2DModel(sample_size=8, num_layers=1, num_attention_heads=1, num_embeds_ada_norm=5)
    embedder = net.transformer_blocks[0].norm1.emb.class_embedder
    assert embedder.dropout_prob == 0.1
    assert Denoiser(net, VP(), "eps").condition_dropout == 0.1
    assert embedder.dropout_prob == 0
    assert load_pipeline(tiny("dit"))[0].condition_dropout == 0.1
    assert Pretrained(str(tiny("dit"))).condition_dropout == 0.1
    assert Pretrained(str(tiny("dit")), condition_dropout=0.0).condition_dropout == 0


def test_no_label_is_dropped_where_a_sampler_is_simulated(tiny):
    denoiser = load_pipeline(tiny("dit"))[0]
    scheduler = denoiser.process.scheduler("ddim", denoiser.prediction)
    x_0 = torch.zeros(64, *denoiser.latent_shape((3, 16, 16)))
    batch = [Batch(x_0, torch.zeros(64, dtype=torch.int64), Draws(0)) for _ in range(2)]
    with torch.no_grad():
        training = simulate(denoiser.train(), batch[0], scheduler, num_steps=4)
        torch.testing.assert_close(training, simulate(denoiser.eval(), batch[1], scheduler, num_steps=4))


def test_more_classes_in_the_data_than_in_the_network_are_refused():
    data = StoredImages(torch.zeros(5, 1, 8, 8), torch.arange(5))
    Denoiser(unet(num_class_embeds=5), VP(), "v").check_condition(data)
    with pytest.raises(ValueError, match="UNet2DModel has 4 classes and `.*` has 5: build the network with as many"):
        Denoiser(unet(num_class_embeds=4), VP(), "v").check_condition(data)
