"""Every exception this project raises, by who must act.

    TalklipError
    |-- ConfigError             whoever wrote the settings or the command line: raised before any work starts
    |   |-- ManifestError           ...the manifest
    |   `-- WeightsError            ...the weights file
    |-- TitleError              nobody during the run: the title becomes a dead letter, the run goes on
    |   |-- MediaError              a file that is not what it must be
    |   |   |-- NoPictureError          no video track, or no frame in it
    |   |   `-- NoSoundError            no audio track, or no sample in it
    |   |-- TooLargeError           a title that the settings' bounds have no room for
    |   `-- SourceChangedError      the source is no longer the object that was planned
    `-- StoreError              the operator: storage refuses or lacks something
        |-- NotFoundError           the object or bucket is not there
        |-- AccessError             credentials missing, wrong, or not allowed to do this
        |-- FullError               no space left
        `-- TransientStoreError     nobody yet: the retry policy first

A message has four parts: what must hold, what was found, where, and what to do. ``where`` is an argument of its
own so that reports can group by it. Both arguments reach ``args``: Ray carries exceptions between processes by
pickling ``args``, and an exception that keeps something else does not survive the trip.
"""


class TalklipError(Exception):
    """Root of the tree. ``where`` names a file, URI, row or setting; ``detail`` says the rest."""

    def __init__(self, where: str, detail: str) -> None:
        super().__init__(where, detail)
        self.where = where
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}" if self.where else self.detail


class ConfigError(TalklipError):
    """Settings that cannot work. Raised before any actor starts."""


class ManifestError(ConfigError):
    """A manifest that cannot be read, or rows of it that cannot be used."""


class WeightsError(ConfigError):
    """Weights that are missing, damaged, hostile, or made for another network."""


class TitleError(TalklipError):
    """One title cannot be done. The pipeline turns it into a dead letter."""


class MediaError(TitleError):
    """A file that is empty, truncated, or not the media it must be."""


class NoPictureError(MediaError):
    """A video without a picture track, or without one decodable frame."""


class NoSoundError(MediaError):
    """A dub without an audio track, or without one decodable sample."""


class TimeLimitError(TitleError):
    """Work on a segment hung until its process was killed."""


class WorkerDiedError(TitleError):
    """Processes died over a segment, again and again."""


class TooLargeError(TitleError):
    """A title needs more room than a bound of the settings allows it."""


class SourceChangedError(TitleError):
    """The source object is not the one the segment was planned on."""


class StoreError(TalklipError):
    """Storage refused. The operator must act."""


class NotFoundError(StoreError):
    """No such object, file or bucket."""


class AccessError(StoreError):
    """Credentials are missing, wrong, or do not allow this."""


class FullError(StoreError):
    """The disk or the quota is full."""


class TransientStoreError(StoreError):
    """Throttled, reset or timed out: worth trying again."""
