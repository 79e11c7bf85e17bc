"""CloudWatch Logs, as moto stands in for it."""

import socket
import sys
from typing import Any, ClassVar

import boto3

from tests.support.services.process import Process


class Moto(Process):
    """Amazon's services over HTTP, as moto stands in for them."""

    #: What boto3 reads; the endpoint is added by whoever stands in between.
    environ: ClassVar[dict[str, str]] = {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }

    def command(self) -> list[str]:
        return [
            sys.executable,
            "-c",
            "from moto.server import main; main()",
            "-H",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        return boto3.client(
            "logs",
            endpoint_url=self.url,
            region_name=self.environ["AWS_DEFAULT_REGION"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def messages(self, group: str) -> list[str]:
        """Every event of every stream of ``group``; none when it does not exist."""
        logs, found = self.client(), []
        if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
            return []
        for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]:
            name, token = stream["logStreamName"], None
            while True:
                page = logs.get_log_events(
                    logGroupName=group,
                    logStreamName=name,
                    startFromHead=True,
                    **({} if token is None else {"nextToken": token}),
                )
                found += [event["message"] for event in page["events"]]
                if page["nextForwardToken"] == token or not page["events"]:
                    break
                token = page["nextForwardToken"]
        return found
