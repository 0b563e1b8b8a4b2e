"""TalkLip: a face, its lower half hidden, repainted to say what is heard.

Shapes: N pictures, S = 96 pixels a side, D embedding, B clips, A audio steps, F audio features.

The four published variants differ in who listens (l: 0.2 s around the frame, g: the whole clip) and in
whether training adds a contrastive term (c). Wav2Lip's generator is variant l at the released sizes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import FEATURES, Voice
from talklip_ray.models.audio_global import GlobalListener, GlobalListenerConfig
from talklip_ray.models.audio_local import WINDOW, LocalListener
from talklip_ray.models.contrastive import ContrastiveHead
from talklip_ray.models.generator import Generator
from talklip_ray.models.mouth import added, cover, lay_over
from talklip_ray.models.video_encoder import LEVELS, VideoEncoder

Variant = Literal["l", "lc", "g", "gc"]
Repaints = Literal["face", "mouth"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
REPAINTS: tuple[Repaints, ...] = get_args(Repaints)

SIDE = 96
"""S, the only side this pyramid fits: its bottom is an unpadded 3x3 convolution on 3x3 positions."""

MelPlacement = Literal["centered", "wav2lip"]
MEL_OFFSET: dict[MelPlacement, int] = {"centered": -(WINDOW // 2 - 1), "wav2lip": 0}
"""Where a local window starts, in steps from the one the frame falls into. Centered: that step is the
eighth of sixteen, so on average over frames the window's middle is the frame's own time.
"""

_MAX_WIDTH, _MAX_LAYERS = 8192, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """Everything needed to build the network; travels with its weights."""

    variant: Variant
    encoder_widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 512)
    """Channels of the video encoder's seven levels, largest picture first."""
    decoder_widths: tuple[int, ...] = (512, 512, 512, 384, 256, 128, 64)
    """Channels of the generator's seven blocks, smallest picture first."""
    output_width: int = 32
    embedding: int = 512
    """Channels of what is heard, where it enters the generator."""
    local_widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Channels of the local listener; the last is the embedding."""
    listener: GlobalListenerConfig = field(default_factory=GlobalListenerConfig)
    """Sizes of the global listener."""
    mel_placement: MelPlacement = "centered"
    """Where the local listener's window lies about its frame."""
    contrast_width: int = 768
    """Width of the lip-reading expert's rows, which the contrastive head of lc and gc meets."""
    repaints: Repaints = "face"
    """face: the whole patch, as in the paper. mouth: who it is, is shown with the mouth covered, and no more than that
    is painted (models/mouth.py); the rest of the patch is who it is."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS or self.mel_placement not in MEL_OFFSET or self.repaints not in REPAINTS:
            raise ConfigError(
                "network",
                f"variant must be one of {VARIANTS}, mel_placement one of {tuple(MEL_OFFSET)} and repaints one of "
                f"{REPAINTS}, found {self.variant!r}, {self.mel_placement!r} and {self.repaints!r}",
            )
        counts = len(self.encoder_widths), len(self.decoder_widths), len(self.local_widths)
        if counts != (LEVELS, LEVELS, 5):
            raise ConfigError("network", f"widths must count {LEVELS}, {LEVELS} and 5 levels, found {counts}")
        sizes = (
            *self.encoder_widths,
            *self.decoder_widths,
            *self.local_widths,
            self.output_width,
            self.embedding,
        )
        listener = self.listener
        sizes += (listener.width, listener.hidden, listener.heads, listener.position_kernel, self.contrast_width)
        if min(sizes) < 1 or max(sizes) > _MAX_WIDTH or not 1 <= listener.layers <= _MAX_LAYERS:
            raise ConfigError("network", f"sizes must be 1 to {_MAX_WIDTH} and layers 1 to {_MAX_LAYERS}, found {self}")
        if self.voice is Voice.LOCAL and self.local_widths[-1] != self.embedding:
            raise ConfigError(
                "network",
                f"the local listener's last width is the embedding, found {self.local_widths[-1]} and {self.embedding}",
            )

    @property
    def voice(self) -> Voice:
        """Which audio features the network takes."""
        return Voice.LOCAL if self.variant.startswith("l") else Voice.GLOBAL

    @property
    def contrastive(self) -> bool:
        """Whether training adds the contrastive term. Only then is there a head for it; dubbing does not use it."""
        return self.variant.endswith("c")

    @property
    def mouth_only(self) -> bool:
        """Whether all but the mouth is left as it is; who it is must then be shown by the frame itself, or its twin."""
        return self.repaints == "mouth"

    @property
    def heard_width(self) -> int:
        """D of a row that ``TalkLip.listen`` gives."""
        return self.embedding if self.voice is Voice.LOCAL else self.listener.width

    @property
    def mel_offset(self) -> int:
        return MEL_OFFSET[self.mel_placement]

    def build(self) -> TalkLip:
        return TalkLip(self)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def released(variant: Variant = "gc", *, mel_placement: MelPlacement = "centered") -> NetworkConfig:
    """The sizes of the paper and of the released weights."""
    return NetworkConfig(variant=variant, mel_placement=mel_placement)


def small(variant: Variant = "l", *, mel_placement: MelPlacement = "centered") -> NetworkConfig:
    """The same network at a quarter of the width: one sixteenth of the work, under 15 MB of weights."""
    return NetworkConfig(
        variant=variant,
        encoder_widths=(4, 8, 16, 32, 64, 128, 128),
        decoder_widths=(128, 128, 128, 96, 64, 32, 16),
        output_width=8,
        embedding=128,
        local_widths=(8, 16, 32, 64, 128),
        listener=GlobalListenerConfig(width=192, hidden=768, heads=3, layers=2),
        mel_placement=mel_placement,
        contrast_width=128,
    )


class Painted(NamedTuple):
    """What a training step gets from one look at the network."""

    patches_N3SS: Tensor
    anchors_ND: Tensor | None
    """Unit rows of the contrastive head; None for variants l and g."""


class TalkLip(nn.Module):
    """Video encoder, listener and generator."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.video_encoder = VideoEncoder(config.encoder_widths)
        if config.voice is Voice.LOCAL:
            self.local_listener = LocalListener(config.local_widths)
        else:
            self.global_listener = GlobalListener(config.listener, FEATURES[Voice.GLOBAL])
            self.audio_map = nn.Linear(config.listener.width, config.embedding)
        self.generator = Generator(
            config.embedding,
            config.decoder_widths,
            config.encoder_widths,
            config.output_width,
            mouth_only=config.mouth_only,
        )
        self.listener_learns = True
        """False: training passes no gradient into the listener, and keeps nothing for one."""
        if config.contrastive:
            self.contrast = ContrastiveHead(config.heard_width, config.contrast_width)

    def forward(
        self,
        faces_N6SS: Tensor,
        voice: Tensor,
        picked_N: Tensor | None = None,
        padding_BA: Tensor | None = None,
    ) -> Painted:
        """Pictures N x 3 x S x S, BGR in 0 .. 1, and what the contrastive head makes of what was heard.

        ``voice``: local windows N x 1 x 80 x 16, or global rows B x A x 104 of which ``picked_N`` names the
        row (clip x A + step) of each picture. ``padding_BA``: see GlobalListener.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.listener_learns):
            heard_ND = self.listen(voice, padding_BA)
        if picked_N is not None:
            heard_ND = heard_ND[picked_N]
        anchors_ND = self.contrast(heard_ND) if self.config.contrastive else None
        return Painted(self.repaint(faces_N6SS, heard_ND), anchors_ND)

    def listen(self, voice: Tensor, padding_BA: Tensor | None = None) -> Tensor:
        """One row for each window or step: N x D, or (B A) x D before the audio map."""
        if self.config.voice is Voice.LOCAL:
            local_ND: Tensor = self.local_listener(voice)
            return local_ND
        global_BAD: Tensor = self.global_listener(voice, padding_BA)
        return global_BAD.flatten(0, 1)

    def repaint(self, faces_N6SS: Tensor, heard_ND: Tensor) -> Tensor:
        """With more rows heard than faces, all faces again and again, each time with the next rows."""
        seen, times = self.look(faces_N6SS), len(heard_ND) // len(faces_N6SS)
        return self.paint(seen if times == 1 else [torch.cat([level] * times) for level in seen], heard_ND)

    def look(self, faces_N6SS: Tensor) -> list[Tensor]:
        """All that ``paint`` needs to know of N faces: what the video encoder sees and, where the mouth alone is
        painted, before that who it is, open and covered. It knows no sound, so each voice that a face is given can
        share it.
        """
        shown_N6SS = cover(faces_N6SS) if self.config.mouth_only else faces_N6SS
        seen: list[Tensor] = self.video_encoder(shown_N6SS.to(next(self.video_encoder.parameters()).dtype))
        return [faces_N6SS[:, 3:], shown_N6SS[:, 3:], *seen] if self.config.mouth_only else seen

    def paint(self, seen: list[Tensor], heard_ND: Tensor) -> Tensor:
        """Pictures N x 3 x S x S from what ``look`` gives."""
        embedding_ND = heard_ND if self.config.voice is Voice.LOCAL else self.audio_map(heard_ND)
        if self.config.mouth_only:
            own_N3SS, covered_N3SS, *seen = seen
            return lay_over(added(self.generator(embedding_ND, seen), covered_N3SS), own_N3SS)
        logits_N3SS = self.generator(embedding_ND, seen)
        return torch.sigmoid(logits_N3SS)
