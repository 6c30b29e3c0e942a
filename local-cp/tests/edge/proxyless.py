"""A gRPC client that has no proxy, and servers for it to find.

proxyless.py ADDRESS... serves one method at each of them, which answers with that address. Each line of its input is a target to
call; each line of its output is what the call gave.
"""

import sys
from concurrent import futures

import grpc

METHOD = "/shop.Echo/Say"
# Longer than a client waits for a name that nobody tells it of.
CALL_SECONDS_MAX = 20


class Echo(grpc.GenericRpcHandler):
    def __init__(self, address):
        self.address = address.encode()

    def service(self, call):
        if call.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.address)


def serve(address):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((Echo(address),))
    if not server.add_insecure_port(address):
        sys.exit(f"cannot serve at {address}")
    server.start()
    return server


def called(channels, target):
    channel = channels.setdefault(target, grpc.insecure_channel(target))
    try:
        return channel.unary_unary(METHOD)(b"", timeout=CALL_SECONDS_MAX).decode()
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}".replace("\n", " ")


servers = [serve(address) for address in sys.argv[1:]]
channels = {}
for line in sys.stdin:
    print(called(channels, line.strip()), flush=True)
