"""The one place where errors of boto3 and botocore become ours. No credential reaches a message."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from boto3.exceptions import Boto3Error
from botocore import exceptions as boto

from talklip_ray.errors import (
    AccessError,
    ConfigError,
    FullError,
    NotFoundError,
    StoreError,
    TalklipError,
    TransientStoreError,
)
from talklip_ray.storage.retries import TryAgainError
from talklip_ray.storage.store import PreconditionFailedError
from talklip_ray.telemetry import STORE_SECONDS, record

_MISSING = {"NoSuchKey", "NoSuchVersion", "NotFound", "404"}
_CHANGED = {"PreconditionFailed", "412"}
_CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "EntityTooLarge", "507"}
_ACCESS = {
    "AccessDenied": "Grant this identity s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket here",
    "AllAccessDisabled": "Enable the bucket",
    "InvalidAccessKeyId": "Set AWS_ACCESS_KEY_ID, or the profile, to a key this endpoint knows",
    "SignatureDoesNotMatch": "Set AWS_SECRET_ACCESS_KEY to the secret that belongs to the access key",
    "ExpiredToken": "Renew the session credentials",
    "InvalidToken": "Renew or remove AWS_SESSION_TOKEN",
    "TokenRefreshRequired": "Renew the session credentials",
    "RequestTimeTooSkewed": "Set this machine's clock",
    "401": "Check the credentials in the environment or the profile",
    "403": "Check the credentials and their rights here (without s3:ListBucket a missing object is 403)",
}
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307"}
"""The bucket lies in another region than was asked."""
_PASSING = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "429"}
_PASSING |= {"RequestTimeoutException", "ThrottlingException", "TooManyRequests"}
# A body that was damaged on its way to the store. botocore, to which these are mistakes of ours, does not repeat them.
_DAMAGED = {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_NO_CREDENTIALS = (
    *(boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError),
    *(boto.ProfileNotFound, boto.TokenRetrievalError, boto.SSOError, boto.NoAuthTokenError),
)
_CUT = (
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    boto.ReadTimeoutError,
    boto.FlexibleChecksumError,
)
_NO_CONNECTION = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)


@contextmanager
def s3_call(uri: str, operation: str) -> Iterator[None]:
    """Times a call to object storage and translates what it raises."""
    started, outcome = time.perf_counter(), "ok"
    try:
        yield
    except (boto.BotoCoreError, boto.ClientError, Boto3Error) as error:
        ours = translate(uri, error)
        outcome = type(ours).__name__
        raise ours from error
    finally:
        record(STORE_SECONDS, time.perf_counter() - started, operation=operation, outcome=outcome)


def translate(uri: str, error: Exception) -> TalklipError:
    """Which of our errors this is, with what to do about it."""
    source = _client_error(error)
    if source is not None:
        return _by_code(uri, source)
    if isinstance(error, boto.ParamValidationError):
        return ConfigError(uri, "must be a valid bucket and key, refused before it was sent. Check the URI")
    if isinstance(error, _NO_CREDENTIALS):
        return AccessError(
            uri,
            f"needs credentials, found none that can be used ({type(error).__name__}). "
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile that exists",
        )
    if isinstance(error, _NO_CONNECTION):
        endpoint = urlsplit(str(error.kwargs.get("endpoint_url", ""))).hostname or "the endpoint"
        return TransientStoreError(
            uri, f"needs {endpoint} to be reachable, found no connection. Check AWS_ENDPOINT_URL"
        )
    if isinstance(error, _CUT):
        return TryAgainError(uri, f"must arrive whole, found it cut short ({type(error).__name__}). Try again")
    if isinstance(error, boto.HTTPClientError):
        return TransientStoreError(uri, f"must answer, found {type(error).__name__}. Try again")
    return StoreError(uri, f"must be usable, found {type(error).__name__}")


def _client_error(error: BaseException | None) -> boto.ClientError | None:
    """s3transfer wraps the server's answer, which knows best what went wrong."""
    while error is not None and not isinstance(error, boto.ClientError):
        error = error.__cause__ or error.__context__
    return error


def _by_code(uri: str, error: boto.ClientError) -> TalklipError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if error.operation_name == "AssumeRole" and status < 500 and code not in _PASSING:
        return AccessError(
            uri,
            f"must be reached in the role that the settings name, refused with {code}. Check storage.role_arn, "
            "storage.external_id and the role's trust policy",
        )
    if code == "NoSuchBucket":
        return NotFoundError(uri, "needs its bucket, found none of that name. Create it or correct the URI")
    if code == "NoSuchUpload":
        return TryAgainError(uri, "must stay open while it is uploaded, found the upload gone. Try again")
    if code in _CHANGED:
        return PreconditionFailedError(uri, "must be the version that was expected, found another writer's")
    if code in _CONFLICT:
        return TryAgainError(uri, "must have one writer at a time, found two in conflict. Try again")
    if code in _DAMAGED:
        return TryAgainError(uri, f"must arrive whole, refused with {code}. Try again")
    if code in _MISSING or (status == 404 and not code):
        return NotFoundError(uri, "must exist, found no such object, or no such bucket. Check the URI")
    if code in _FULL or status == 507:
        return FullError(uri, f"needs room in the store, refused with {code}. Free some space or raise the quota")
    if code in _ELSEWHERE:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = error.response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
        hint = f"Set storage.region, or AWS_REGION, to {region or 'its own'}"
        return AccessError(uri, f"must be asked for in its bucket's own region, refused with {code}. {hint}")
    if code in _ACCESS:
        return AccessError(uri, f"must be allowed, refused with {code}. {_ACCESS[code]}")
    if code in _PASSING or status in {408, 429, 500, 502, 503, 504}:
        return TransientStoreError(uri, f"must be served, refused with {code or status} every time. Try again later")
    if status in {401, 403}:
        return AccessError(uri, f"must be allowed, refused with {code}. {_ACCESS['403']}")
    return StoreError(uri, f"must be accepted by the store, refused with {code or status}")
