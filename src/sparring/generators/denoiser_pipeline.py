"""The pipeline that is shipped as a file beside networks that no pipeline of diffusers runs; needs torch and diffusers.

It draws what `sparring sample` draws. Open its folder with

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    image = pipe(class_labels=[3], num_inference_steps=20, guidance_scale=2.0).images[0]
"""

from contextlib import ExitStack
from inspect import signature
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class DenoiserPipeline(DiffusionPipeline):
    """Images of a U-Net or transformer, in pixels or latents, with any scheduler and with guidance by classes.

    Args:
        scheduler: a scheduler of diffusers.
        unet: a network called as `unet(x, time, class_labels=...)`, or None.
        transformer: a DiT, or None.
        vae: the autoencoder of its latents; None: it works on pixels.
        latent_slot: through which it is conditioned on a latent z, new for each step; None: it takes none.
        time_slot: through which it takes the start and the length of a step, as shares of all times; None: it does not.
        start: density that it begins from; None: standard normal noise.
    """

    scheduler: Any
    unet: Any
    transformer: Any
    vae: Any
    latent_slot: Any
    time_slot: Any
    start: Any
    _optional_components = ["unet", "transformer", "vae", "latent_slot", "time_slot", "start"]
    model_cpu_offload_seq: Any = "start->latent_slot->time_slot->unet->transformer->vae"

    def __init__(
        self,
        scheduler: Any,
        unet: Any = None,
        transformer: Any = None,
        vae: Any = None,
        latent_slot: Any = None,
        time_slot: Any = None,
        start: Any = None,
    ):
        super().__init__()
        slots = {"latent_slot": latent_slot, "time_slot": time_slot}
        parts = {"unet": unet, "transformer": transformer, "vae": vae, "start": start}
        self.register_modules(scheduler=scheduler, **parts, **slots)
        for slot in slots.values():
            if slot is not None:
                slot.attach(unet or transformer)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        class_labels: list[int] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        generator: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draws images.

        Args:
            batch_size: number of images; None: one for each of `class_labels`, or one.
            class_labels: their classes; None: class after class. Only for a network that takes classes.
            num_inference_steps: steps of the scheduler.
            guidance_scale: scale of classifier-free guidance; 1 is none.
            generator: torch.Generator of the noise.
            output_type: "pil", "np" [n, H, W, C] or "pt" [n, C, H, W], both in [0, 1].
            return_dict: an `ImagePipelineOutput`, or a tuple of the images.
        """
        net, scheduler, device = self.unet or self.transformer, self.scheduler, self._execution_device
        classes, null = self.classes()
        n = batch_size or len(class_labels or [0])
        labels = None
        if classes is not None:
            chosen = class_labels or list(range(null if guidance_scale != 1 else classes))
            labels = torch.tensor([chosen[i % len(chosen)] for i in range(n)], device=device)
        size = net.config.sample_size
        shape = (n, net.config.in_channels, *((size, size) if isinstance(size, int) else size))
        self.set_timesteps(num_inference_steps, device)
        x = randn_tensor(shape, generator=generator, device=device, dtype=net.dtype)
        x = x * getattr(scheduler, "init_noise_sigma", 1.0) if self.start is None else self.begin(x, generator)
        extra = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
        for call, time in enumerate(self.progress_bar(scheduler.timesteps)):
            x_in = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
            with ExitStack() as slots:
                if self.latent_slot is not None:
                    z_shape = (n, self.latent_slot.config.latent_dim)
                    z = randn_tensor(z_shape, generator, device, net.dtype)
                    slots.enter_context(self.latent_slot.given(z))
                if self.time_slot is not None:
                    slots.enter_context(self.time_slot.given(self.times()[call].expand(n, 2)))
                output = self.output(x_in, time, labels)
                if guidance_scale != 1 and labels is not None:
                    none = self.output(x_in, time, torch.full_like(labels, null))
                    channels = x.shape[1]  # a learned variance behind them is not guided
                    output[:, :channels] = (none + guidance_scale * (output - none))[:, :channels]
            x = scheduler.step(output, time, x, return_dict=False, **extra)[0]
        images: Any = (self.decoded(x) / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
            images = self.numpy_to_pil(images) if output_type == "pil" else images
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def begin(self, z: torch.Tensor, generator: Any) -> torch.Tensor:
        """The scheduler's state at its first level, of standard normal z."""
        u = torch.special.ndtr(randn_tensor((len(z), 1), generator, z.device, z.dtype)).flatten()
        x_t, first = self.start(z, u), self.scheduler.timesteps[0]
        if type(self.scheduler).__name__.startswith("EDM") or not hasattr(self.scheduler, "scale_model_input"):
            return x_t
        return x_t / self.scheduler.scale_model_input(torch.ones_like(x_t), first)  # Euler's and Heun's is x_t / alpha

    def classes(self) -> tuple[int | None, int]:
        """How many classes the network has, and the one that says "none"."""
        if self.unet is None:
            total = self.transformer.config.num_embeds_ada_norm
            return total, total
        total = self.unet.config.num_class_embeds
        return total, (total or 1) - 1

    def output(self, x_in: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """What the network says of x, with the variance of networks that learned one if the scheduler takes it."""
        net = self.unet or self.transformer
        told = {} if labels is None else {"class_labels": labels}
        output = net(x_in.to(net.dtype), time.to(x_in.device).expand(len(x_in)), **told, return_dict=False)[0]
        kind, config = type(self.scheduler).__name__, self.scheduler.config
        if kind.startswith("DDPM") and config.variance_type.startswith("learned"):
            return output.to(x_in.dtype)
        return output[:, : x_in.shape[1]].to(x_in.dtype)

    def set_timesteps(self, num_steps: int, device: Any) -> None:
        """The scheduler's grid; of a rectified flow the times 1, ..., 1/m, which are not rounded to integers."""
        scheduler, config = self.scheduler, self.scheduler.config
        name, flow_sigmas = type(scheduler).__name__, bool(config.get("use_flow_sigmas"))
        own_times = ("FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler")
        if name in own_times or (name == "UniPCMultistepScheduler" and flow_sigmas):
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / num_steps, num_steps), device=device)
        else:
            scheduler.set_timesteps(num_steps, device=device)
        if flow_sigmas:
            scheduler.timesteps = scheduler.sigmas[:-1].to(device) * 1000.0

    def times(self) -> torch.Tensor:
        """Where each step starts and how far it goes [calls, 2], as shares of all times; the last one goes to 0."""
        times, config = self.scheduler.timesteps.double(), self.scheduler.config
        is_flow = type(self.scheduler).__name__.startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))
        shares = (times if is_flow else times + 1) / config.num_train_timesteps
        return torch.stack([shares, shares - torch.cat([shares[1:], shares.new_zeros(1)])], dim=1)

    def decoded(self, x: torch.Tensor) -> torch.Tensor:
        """Images of latents, or the images themselves."""
        if self.vae is None:
            return x
        config = self.vae.config
        shift = config.get("latents_mean") or [config.get("shift_factor") or 0.0]
        scale = config.get("latents_std") or [1.0]
        shift, scale = (torch.tensor(value).view(1, -1, 1, 1).to(x) for value in (shift, scale))
        x = x / (config.get("scaling_factor", 1.0) / scale) + shift
        return self.vae.decode(x.to(self.vae.dtype), return_dict=False)[0].float()
