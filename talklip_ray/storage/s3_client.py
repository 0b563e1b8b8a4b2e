"""A connection to S3 as the settings want it: whose credentials, how patient, and how objects are written.

Assumed roles are botocore's own: their credentials come from STS, are kept in memory, and are asked for anew a
quarter of an hour before they expire. Nothing here logs them; botocore does at level DEBUG, as it does all traffic.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import NoCredentialsError

from talklip_ray.config import StorageConfig

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ANY_REGION = "us-east-1"
"""Where roles are assumed when nothing names a region: credentials are good in all of them."""


def connect(config: StorageConfig) -> S3Client:
    """Raises what botocore raises."""
    endpoint, region = config.endpoint_url or None, config.region or os.environ.get("AWS_REGION")
    options: dict[str, Any] = {}
    if endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        # Other servers seldom have a DNS name per bucket.
        options["s3"] = {"addressing_style": "path"}
    # A session of our own: boto3's default one would keep the credentials it saw first.
    session = botocore.session.get_session()
    if config.role_arn:
        session.register_component("credential_provider", CredentialResolver([_AssumedRole(config, region)]))
    client: S3Client = boto3.Session(botocore_session=session).client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        config=_patience(config).merge(Config(max_pool_connections=16, **options)),
    )
    if config.request_payer:
        client.meta.events.register("provide-client-params.s3", _pay)
    return client


def written_as(config: StorageConfig) -> dict[str, Any]:
    """Parameters of every request that begins a new object: of a put, and of an upload in parts."""
    asked = {"ServerSideEncryption": config.encryption, "SSEKMSKeyId": config.kms_key, "ACL": config.acl}
    return {name: value for name, value in asked.items() if value}


class _AssumedRole(CredentialProvider):
    """The role, assumed with what the usual chain finds."""

    METHOD = "assume-role"

    def __init__(self, config: StorageConfig, region: str | None) -> None:
        super().__init__()
        self._config = config
        self._region = region

    def load(self) -> DeferredRefreshableCredentials:
        config, ours = self._config, botocore.session.get_session()
        source = ours.get_credentials()
        if source is None:
            raise NoCredentialsError
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=partial(
                ours.create_client,
                region_name=self._region or ours.get_config_variable("region") or ANY_REGION,
                endpoint_url=config.sts_endpoint_url or None,
                config=_patience(config),
            ),
            source_credentials=source,
            role_arn=config.role_arn,
            extra_args={"RoleSessionName": config.role_session_name}
            | ({"ExternalId": config.external_id} if config.external_id else {}),
        )
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, self.METHOD)


def _patience(config: StorageConfig) -> Config:
    return Config(
        retries={"mode": "standard", "total_max_attempts": config.attempts},
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
    )


def _pay(params: dict[str, Any], model: Any, **_: Any) -> None:
    if "RequestPayer" in model.input_shape.members:
        params["RequestPayer"] = "requester"
