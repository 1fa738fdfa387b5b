"""A real S3-compatible server as a process of its own (moto), which checks signatures as Amazon's does."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import boto3
from botocore.config import Config

from provisioning.settings import S3Account
from tests.support.processes import WAIT_SECONDS, free_port

REGION = "eu-central-1"
BUCKET = "models"
READ = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}}


@dataclass(frozen=True)
class Store:
    """The running server: a bucket, the account that may read it, and one that may not."""

    url: str
    reader: S3Account
    stranger: S3Account

    def put(self, key: str, body: bytes, **how: str) -> str:
        """Store an object and return its address; the server asks nobody who he is meanwhile."""
        self.ask_everybody(False)
        self.client("s3").put_object(Bucket=BUCKET, Key=key, Body=body, **how)
        self.ask_everybody(True)
        return f"s3://{BUCKET}/{key}"

    def client(self, service: str) -> Any:
        """Return a client of Amazon's own library."""
        return client(self.url, service)

    def ask_everybody(self, yes: bool) -> None:
        """Let the server check signatures and rights, or not."""
        set_checking(self.url, yes)


def client(url: str, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="setup",
        aws_secret_access_key="setup",
        config=Config(s3={"addressing_style": "path"}),
    )


def set_checking(url: str, yes: bool) -> None:
    unchecked_requests = b"0" if yes else b"1000000"
    asked = Request(f"{url}/moto-api/reset-auth", unchecked_requests, {"Content-Type": "text/plain"})
    with urlopen(asked):
        pass


@contextmanager
def running_store() -> Iterator[Store]:
    """Run a server with one bucket and two accounts until the block ends."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(url)
            set_checking(url, False)
            where = {"LocationConstraint": REGION}
            client(url, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=where)
            store = Store(url, account(url, "reader", READ), account(url, "stranger"))
            store.ask_everybody(True)
            yield store
        finally:
            process.terminate()


def account(url: str, name: str, policy: dict[str, Any] | None = None) -> S3Account:
    iam = client(url, "iam")
    iam.create_user(UserName=name)
    if policy:
        iam.put_user_policy(UserName=name, PolicyName="read", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return S3Account(url, REGION, key["AccessKeyId"], key["SecretAccessKey"])


def wait_for(url: str, seconds: float = WAIT_SECONDS) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urlopen(f"{url}/moto-api/data.json"):
                return
        except (URLError, ConnectionError):
            assert time.monotonic() < end, "the S3 server did not start"
            time.sleep(0.1)
