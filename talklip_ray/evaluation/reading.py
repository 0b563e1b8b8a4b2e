"""What a lip reader makes of a video, and how wrong that is.

WER1 of the TalkLip paper: AV-HuBERT reads the generated video with a beam of 50; here any reader does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jiwer
import numpy as np
import torch
from numpy.typing import NDArray

from talklip_ray.models.beam import beam_search
from talklip_ray.models.expert_view import lip_view, stack_views
from talklip_ray.models.lip_reader import LipReader
from talklip_ray.models.tokenizer import Tokenizer

_AT_ONCE = 8
"""Clips in a batch of the search."""


def read_lips(
    reader: LipReader, tokenizer: Tokenizer, clips: Iterable[NDArray[np.uint8]], *, beam: int = 50
) -> list[str]:
    """What is said in each clip of uint8 RGB frames T x H x W x 3: 88 x 88 or more, lips in the middle, 25 a second."""
    device = next(reader.parameters()).device
    views = [lip_view(torch.from_numpy(np.array(clip)).to(device)) for clip in clips]
    said: list[str] = []
    for at in range(0, len(views), _AT_ONCE):
        video_B1TSS, padding_BT = stack_views(views[at : at + _AT_ONCE])
        found = beam_search(reader, video_B1TSS, padding_BT, beam=beam)
        said += [tokenizer.decode(hypotheses[0].tokens) if hypotheses else "" for hypotheses in found]
    return said


def word_error_rate(references: Sequence[str], read: Sequence[str]) -> float:
    """Words wrong, missing or too many over all clips, as a share of the words said. Case does not count.

    Raises ValueError where the lists do not match or nothing was said.
    """
    if len(references) != len(read) or not any(text.split() for text in references):
        raise ValueError(f"each of {len(references)} spoken sentences needs one that was read, found {len(read)}")
    return float(jiwer.wer([text.lower() for text in references], [text.lower() for text in read]))
