"""Runs espeak-ng's library and reports when each phoneme sounds. A program of its own: standard library only.

    python -m talklip_ray.synthetic.espeak_events < requests.json > speech

Phoneme times come only through the events of the library, which is GPL; so it is loaded here, in a separate
process, and never into the one that imports this package. Reads a JSON list of
``{"text", "voice", "words_per_minute", "pitch"}``; writes one line of JSON, then all samples as 16-bit little-endian
mono in the order of the requests. The line is ``{"rate", "utterances": [{"num_samples", "events": [[symbol, sample],
...], "words": [[position, sample], ...]}]}``; an empty symbol is a pause, a position counts the text's characters
from 0. On failure writes one sentence to stderr and exits 2 (no library)
or 3 (bad request).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import sys
from typing import Any

NO_LIBRARY, BAD_REQUEST = 2, 3

# From speak_lib.h, the library's public interface.
_RETRIEVE_SYNCHRONOUSLY = 0x2
_PHONEME_EVENTS_IN_IPA = 0x1 | 0x2 | 0x8000
_EVENT_LIST_END, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_RATE, _PITCH = 1, 3
_UTF8, _END_PAUSE = 0x1, 0x1000


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The library, initialised once; one utterance at a time."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        self.rate = int(self._library.espeak_Initialize(_RETRIEVE_SYNCHRONOUSLY, 0, None, _PHONEME_EVENTS_IN_IPA))
        if self.rate <= 0:
            raise OSError("espeak-ng found no voice data")
        self._samples = bytearray()
        self._events: list[tuple[str, int]] = []
        self._words: list[tuple[int, int]] = []
        self._callback = _CALLBACK(self._take)  # kept: the library holds only a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def say(
        self, text: str, voice: str, words_per_minute: int, pitch: int
    ) -> tuple[bytes, list[tuple[str, int]], list[tuple[int, int]]]:
        """16-bit samples, [(IPA symbol, first sample)] and [(position of a word or part of one, first sample)].

        Raises ValueError for a voice that is not installed.
        """
        self._samples, self._events, self._words = bytearray(), [], []
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"voice must be one that `espeak-ng --voices` lists, found {voice!r}")
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8 | _END_PAUSE, None, None)
        self._library.espeak_Synchronize()
        return bytes(self._samples), self._events, self._words

    def _take(self, samples: Any, num_samples: int, events: Any) -> int:
        if samples and num_samples > 0:
            self._samples += ctypes.string_at(samples, num_samples * 2)
        index = 0
        while events[index].type != _EVENT_LIST_END:
            if events[index].type == _EVENT_PHONEME:
                # 8 bytes without a promise of a terminator; a symbol cut inside a character loses only its modifier.
                symbol = bytes(events[index].id.string).decode("utf-8", errors="ignore")
                self._events.append((symbol, int(events[index].sample)))
            elif events[index].type == _EVENT_WORD and events[index].length > 0:
                self._words.append((int(events[index].text_position) - 1, int(events[index].sample)))
            index += 1
        return 0


def main() -> int:
    """Speaks the requests on stdin."""
    name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
    try:
        espeak = Espeak(name)
    except OSError as error:
        sys.stderr.write(str(error))
        return NO_LIBRARY
    utterances, chunks = [], []
    for request in json.load(sys.stdin):
        try:
            samples, events, words = espeak.say(
                request["text"], request["voice"], request["words_per_minute"], request["pitch"]
            )
        except ValueError as error:
            sys.stderr.write(str(error))
            return BAD_REQUEST
        utterances.append({"num_samples": len(samples) // 2, "events": events, "words": words})
        chunks.append(samples)
    out = sys.stdout.buffer
    out.write(json.dumps({"rate": espeak.rate, "utterances": utterances}).encode() + b"\n")
    out.writelines(chunks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
