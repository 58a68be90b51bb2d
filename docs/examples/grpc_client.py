"""Streams an answer over gRPC: python grpc_client.py HOST:PORT "a prompt".

Needs nothing of treedraft but its protos: pip install grpcio-tools, then
python -m grpc_tools.protoc -I protos --python_out=. --grpc_python_out=. protos/treedraft/v1/*.proto
"""

import sys

import grpc
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1.coordinator_service_pb2_grpc import CoordinatorServiceStub

with grpc.insecure_channel(sys.argv[1]) as channel:
    request = pb.GenerateRequest(text=sys.argv[2])
    request.stopping.max_tokens = 64
    for response in CoordinatorServiceStub(channel).Generate(request):
        if response.HasField("delta"):
            print(response.delta.text, end="", flush=True)
print()
