"""Runs Flite's library and reports when each phone and word sounds. A program of its own: standard library only.

    python -m talklip_ray.synthetic.people.flite < requests.json > speech

Flite's command prints phones or words, not which phones make a word; its library knows (the relations Segment,
SylStructure and Token of an utterance). A process of its own keeps a C library's faults out of the caller's.
Reads a JSON list of ``{"text", "voice", "stretch", "pitch"}``: how much longer and how much higher than the voice
itself. Writes one line of JSON, then all samples as 16-bit little-endian mono in the order of the requests. The line
is a list of ``{"rate", "num_samples", "phones": [[name, end], ...], "words": [[text, start, end], ...]}``, times in
seconds. On failure writes one sentence to stderr and exits 2 (no library) or 3 (bad request).
"""

from __future__ import annotations

import ctypes
import json
import sys
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_short, c_void_p
from typing import Any

NO_LIBRARY, BAD_REQUEST = 2, 3
VOICES = ("slt", "rms", "awb", "kal16")

_TOKEN = b"R:SylStructure.parent.parent.R:Token.parent"


class _Wave(Structure):  # cst_wave.h
    _fields_ = [
        ("type", c_char_p),
        ("sample_rate", c_int),
        ("num_samples", c_int),
        ("num_channels", c_int),
        ("samples", POINTER(c_short)),
    ]


class _Voice(Structure):  # cst_voice.h: its first two fields
    _fields_ = [("name", c_char_p), ("features", c_void_p)]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "flite_init": (c_int, []),
    "flite_feat_set_float": (None, [c_void_p, c_char_p, c_float]),
    "flite_synth_text": (c_void_p, [c_char_p, POINTER(_Voice)]),
    "delete_utterance": (None, [c_void_p]),
    "utt_wave": (POINTER(_Wave), [c_void_p]),
    "utt_relation": (c_void_p, [c_void_p, c_char_p]),
    "relation_head": (c_void_p, [c_void_p]),
    "item_next": (c_void_p, [c_void_p]),
    "item_feat_string": (c_char_p, [c_void_p, c_char_p]),
    "item_feat_float": (c_float, [c_void_p, c_char_p]),
    "path_to_item": (c_void_p, [c_void_p, c_char_p]),
}


class Flite:
    """The library, initialised once; one line at a time."""

    def __init__(self, library: str = "libflite.so.1") -> None:
        self._library = ctypes.CDLL(library)
        for name, (gives, takes) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = gives, takes
        self._library.flite_init()
        self._libc = ctypes.CDLL(None)
        self._voices: dict[str, Any] = {}

    def say(self, text: str, voice: str, stretch: float, pitch: float) -> tuple[bytes, dict[str, Any]]:
        """Samples and their description. Raises ValueError for an unknown voice or a text it cannot say."""
        flite, speaker = self._library, self._voice(voice)
        self._libc.srand(1)  # the noise in its breath comes from rand()
        flite.flite_feat_set_float(speaker.contents.features, b"duration_stretch", stretch)
        flite.flite_feat_set_float(speaker.contents.features, b"f0_shift", pitch)
        utterance = flite.flite_synth_text(text.encode(), speaker)
        if not utterance:
            raise ValueError(f"text must be one that Flite can say, found {text!r}")
        try:
            wave = flite.utt_wave(utterance).contents
            samples = ctypes.string_at(wave.samples, 2 * wave.num_samples)
            rate, num_samples = int(wave.sample_rate), int(wave.num_samples)
            phones, words = self._spoken(utterance)
        finally:
            flite.delete_utterance(utterance)
        return samples, {"rate": rate, "num_samples": num_samples, "phones": phones, "words": words}

    def _voice(self, name: str) -> Any:
        if name not in VOICES:
            raise ValueError(f"voice must be one of {', '.join(VOICES)}, found {name!r}")
        if name not in self._voices:
            register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
            register.restype, register.argtypes = POINTER(_Voice), [c_char_p]
            self._voices[name] = register(None)
        return self._voices[name]

    def _spoken(self, utterance: int) -> tuple[list[tuple[str, float]], list[tuple[str, float, float]]]:
        """[(phone, end)] and [(word, start, end)]; a word is what stands between spaces, without its marks."""
        flite = self._library
        phones: list[tuple[str, float]] = []
        words: list[tuple[str, float, float]] = []
        start, before = 0.0, None
        phone = flite.relation_head(flite.utt_relation(utterance, b"Segment"))
        while phone:
            end = flite.item_feat_float(phone, b"end")
            phones.append((flite.item_feat_string(phone, b"name").decode(), end))
            token = flite.path_to_item(phone, _TOKEN)
            if token and token == before:
                words[-1] = (*words[-1][:2], end)
            elif token:
                words.append((flite.item_feat_string(token, b"name").decode(errors="replace"), start, end))
            start, before, phone = end, token or before, flite.item_next(phone)
        return phones, words


def main() -> int:
    """Speaks the requests on stdin."""
    try:
        flite = Flite()
    except OSError as error:
        sys.stderr.write(str(error))
        return NO_LIBRARY
    told, chunks = [], []
    for request in json.load(sys.stdin):
        try:
            samples, description = flite.say(request["text"], request["voice"], request["stretch"], request["pitch"])
        except OSError as error:
            sys.stderr.write(str(error))
            return NO_LIBRARY
        except ValueError as error:
            sys.stderr.write(str(error))
            return BAD_REQUEST
        told.append(description)
        chunks.append(samples)
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\n")
    sys.stdout.buffer.writelines(chunks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
