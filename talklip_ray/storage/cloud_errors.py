"""The one place where errors of fsspec's file systems become ours. No credential reaches a message.

Their libraries may be missing, so their errors are known by status and by name.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager

from talklip_ray.errors import (
    AccessError,
    FullError,
    NotFoundError,
    StoreError,
    TalklipError,
    TransientStoreError,
)
from talklip_ray.storage.retries import TryAgainError
from talklip_ray.storage.store import PreconditionFailedError
from talklip_ray.telemetry import STORE_SECONDS, record

_CONDITION = {"BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet"}
_NO_ACCESS = {"ClientAuthenticationError", "DefaultCredentialsError", "RefreshError"}
_CUT = {"ChecksumError", "ClientPayloadError", "IncompleteReadError", "HttpResponsePayloadError"}
_PASSING = {"ClientError", "ServiceRequestError", "ServiceResponseError", "RequestException", "TransportError"}
_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def cloud_call(uri: str, operation: str, kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """Times a call to object storage and translates what it raises: OSError, and the library's own ``kinds``."""
    started, outcome = time.perf_counter(), "ok"
    foreign: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except TalklipError:
        raise
    except foreign as error:
        ours = translate(uri, error)
        outcome = type(ours).__name__
        raise ours from error
    finally:
        record(STORE_SECONDS, time.perf_counter() - started, operation=operation, outcome=outcome)


def translate(uri: str, error: Exception) -> TalklipError:
    """Which of our errors this is, with what to do about it."""
    status, code = _status(error), getattr(error, "error_code", None) or ""
    code = str(getattr(code, "value", code))  # Azure's are members of an Enum
    names, reason = {kind.__name__ for kind in type(error).__mro__}, code or status or type(error).__name__
    if isinstance(error, FileExistsError) or status == 412 or code in _CONDITION:
        return PreconditionFailedError(uri, "must be the version that was expected, found another writer's")
    if isinstance(error, FileNotFoundError) or status == 404:
        return NotFoundError(uri, "must exist, found no such object, or no such bucket or container. Check the URI")
    if status in {401, 403} or isinstance(error, PermissionError) or names & _NO_ACCESS or _is_forbidden(error):
        return AccessError(
            uri,
            f"must be allowed, refused with {reason}. Check the credentials: GOOGLE_APPLICATION_CREDENTIALS or the "
            "machine's service account for Google, the AZURE_STORAGE_... variables or az login for Azure",
        )
    if status == 507 or getattr(error, "errno", None) in _FULL:
        return FullError(uri, f"needs room in the store, refused with {reason}. Free some space or raise the quota")
    if names & _CUT or (status == 400 and "md5" in f"{code} {error}".lower()):
        return TryAgainError(uri, f"must arrive whole, found it cut short or damaged ({reason}). Try again")
    if (
        status in {408, 429, 500, 502, 503, 504}
        or names & _PASSING
        or isinstance(error, TimeoutError | ConnectionError)
    ):
        return TransientStoreError(uri, f"must be served, found {reason} every time. Try again later")
    return StoreError(uri, f"must be usable, found {reason}")


def _status(error: Exception) -> int:
    """The answer's HTTP status, 0 where there was none. gcsfs keeps it as a number or as text."""
    for name in ("status_code", "code", "status"):
        found = str(getattr(error, name, None))
        if found.isdecimal():
            return int(found)
    return 0


def _is_forbidden(error: Exception) -> bool:
    """gcsfs says a 403 so."""
    return type(error) is OSError and str(error).startswith("Forbidden")
