"""Self-distillation on stacked sensors, as DINO-MM (arXiv 2204.05381) does it with DINO (arXiv 2104.14294).

A student and a teacher look at two views of each sample: random windows and brightness, often without one of the
sensors.  The student is to say of one view what the teacher says of the other; the teacher is the moving average of
the student.  Nothing is compared with other samples: centring and sharpening keep the teacher from one answer for all.

Two things differ from DINO.  There are no local crops: with a mask ratio above 0 the student sees part of its view's
tokens instead (MSN, arXiv 2204.07141).  And the sizes of the head fit small models; they are arguments.

Shapes: B samples, 2B views (those of a sample in adjacent rows), C channels, H W pixels, D width, P prototypes.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmlib.masking import Masks, drawn_sensor
from fmlib.modality import Modality
from fmlib.models.baselines import make_encoder
from fmlib.models.fusmae import FusMAE
from fmlib.models.mae import Encoded, Output, initialise


class DINO(nn.Module):
    """Student and teacher on all sensors' channels, stacked; features come from the teacher's class token.

    Args:
        modalities: the sensors in a fixed order.
        steps: optimiser steps of the run, over which the teacher's momentum rises to 1 along a cosine.
        momentum: of the teacher at the start.
        prototypes: outputs of the head.
        student_temperature, teacher_temperature: the lower, the sharper.
        center_momentum: of the teacher's mean output, which is subtracted.
        fusion: of the encoder, as for `FusMAE`; DINO-MM stacks channels.
        encoder: sizes of the encoder, as for `FusMAE`.
    """

    def __init__(
        self,
        modalities: list[Modality],
        steps: int,
        momentum: float = 0.996,
        prototypes: int = 4096,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
        fusion: str = "stack",
        **encoder,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__", "modalities", "encoder")}
        super().__init__()
        self.config = config | encoder
        self.steps, self.momentum, self.center_momentum = steps, momentum, center_momentum
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.student = Network(make_encoder(modalities, fusion, **encoder), prototypes)
        self.teacher = copy.deepcopy(self.student)  # asked without gradients only; it can still be fine-tuned later
        self.fusion, self.modalities, self.grids = fusion, self.encoder.modalities, self.encoder.grids
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("step", torch.tensor(0))

    @property
    def encoder(self) -> FusMAE:
        """What is kept for later use: the teacher's encoder."""
        return self.teacher.encoder

    def forward(self, images: dict[str, Tensor], masks: Masks) -> Output:
        """Distil each view into the other.

        Args:
            images: {sensor: (2B, C, H, W)} in physical units, the two views of a sample in adjacent rows (`two_views`).
            masks: what the student sees, 0 keep, 1 remove; the teacher sees all of what is not missing.

        Returns:
            loss, pred {"student": (2B, P) logits, "teacher": (2B, P) probabilities}, mask {sensor: (2B, L)}.
        """
        present = {name: mask.present for name, mask in masks.items() if mask.present is not None}
        with torch.no_grad():
            answers = self.teacher(self.teacher.encoder.encode(images, present=present).cls).float()
            target = ((answers - self.center) / self.teacher_temperature).softmax(-1)
            if self.training:
                self.center.lerp_(answers.mean(0), 1 - self.center_momentum)
        logits = self.student(self.student.encoder.encode(images, masks).cls).float() / self.student_temperature
        pred = {"student": logits, "teacher": target}
        return Output(sum(self.losses(images, masks, pred).values()), pred, {n: m.mask for n, m in masks.items()})

    def losses(self, images: dict[str, Tensor], masks: Masks, pred: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss in two parts: the teacher's entropy, and the student's divergence from it.

        A collapse shows: to one answer for all as entropy 0, to no answer at all as entropy ln P and divergence 0
        (DINO, section 5.3).
        """
        target = pred["teacher"].unflatten(0, (-1, 2)).flip(1).flatten(0, 1)  # each view's answer to the other one
        cross = -(target * pred["student"].log_softmax(-1)).sum(-1).mean()
        entropy = torch.special.entr(target).sum(-1).mean()
        return {"entropy": entropy, "divergence": cross - entropy}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the teacher a little towards the student; called after every optimiser step."""
        rest = (1 - self.momentum) * (1 + torch.cos(math.pi * self.step / self.steps)) / 2  # 1 − momentum at this step
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, rest)
        self.step += 1

    def encode(self, images, masks=None, **options) -> Encoded:
        """The teacher's features of any non-empty subset of the sensors; arguments as in `FusMAE.encode`."""
        return self.encoder.encode(images, masks, **options)


class Network(nn.Module):
    """An encoder and its projection head; called with class tokens (B, D), it gives cosines to prototypes (B, P)."""

    def __init__(self, encoder: FusMAE, prototypes: int):
        super().__init__()
        dim = encoder.cls_token.shape[-1]
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, dim))
        nn.init.normal_(self.prototypes)
        self.head.apply(initialise)

    def forward(self, cls: Tensor) -> Tensor:
        return F.linear(F.normalize(self.head(cls), dim=-1), F.normalize(self.prototypes, dim=-1))


def two_views(
    images: dict[str, Tensor],
    present: dict[str, Tensor],
    modalities: dict[str, Modality],
    generator: torch.Generator,
    sensor_drop: float = 0.0,
    scale: tuple[float, float] = (0.4, 1.0),
    jitter: float = 0.4,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two random views of each sample: window and flips alike in all its sensors, brightness and contrast in each.

    Args:
        images: {sensor: (B, C, H, W)} in physical units.
        present: {sensor: (B,) bool}, False where a sample lacks a sensor.
        modalities: of the sensors; brightness changes in units of their `std`.
        generator: source of all randomness, on the CPU.
        sensor_drop: probability that a view lacks one sensor, drawn at random (RandomSensorDrop of DINO-MM).
        scale: smallest and largest share of the image's area in a window, which is resized to the whole image.
        jitter: contrast is drawn from 1 ± jitter, brightness from ± jitter standard deviations.

    Returns:
        Views {sensor: (2B, C, H, W)} and who is there {sensor: (2B,) bool}; a sample's views are adjacent rows.
    """
    images = {name: image.repeat_interleave(2, dim=0) for name, image in images.items()}
    here = torch.stack([present[name].cpu() for name in images]).repeat_interleave(2, dim=1)  # (M, 2B)
    here &= ~drawn_sensor(here, sensor_drop, generator)
    count = here.shape[1]
    side = (scale[0] + (scale[1] - scale[0]) * torch.rand(count, 1, generator=generator)).sqrt()
    centre = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - side)  # in −1…1, the whole image
    flip = torch.randint(2, (count, 2), generator=generator) * 2 - 1
    window = torch.cat([torch.diag_embed(side * flip), centre[..., None]], dim=-1)  # (2B, 2, 3)
    views = {}
    for name, image in images.items():
        grid = F.affine_grid(window.to(image), list(image.shape), align_corners=False)
        view = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
        contrast, shift = (jitter * (2 * torch.rand(2, count, 1, 1, 1, generator=generator) - 1)).to(image)
        mean, std = (image.new_tensor(getattr(modalities[name], key)).view(-1, 1, 1) for key in ("mean", "std"))
        views[name] = mean + (view - mean) * (1 + contrast) + std * shift
    return views, dict(zip(images, here, strict=True))
