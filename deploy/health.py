#!/usr/bin/env python3
"""`health.py ADDRESS [SERVICE]`: exit code 0 where that says SERVING, 1 where it does not.

SERVICE is `""`, readiness, where it is absent; `liveness` is the other one. The prober of images and of compose.yaml,
for engines without one of their own; it speaks plain text, so ask the address of `--health`.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 4


def main(address: str, service: str = "") -> int:
    """Asks once; gives the exit code."""
    with grpc.insecure_channel(address) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=SECONDS)
        except grpc.RpcError as error:
            print(f"{address}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return int(answer.status != health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
