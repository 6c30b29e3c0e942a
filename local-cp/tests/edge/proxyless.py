"""A gRPC client that has no proxy, and servers for it to find.

proxyless.py COUNT serves one method at so many addresses, which answers with its address; its first line of output is those
addresses. Each line of its input is a target to call, and each further line of its output what the call gave.
"""

import sys
from concurrent import futures

import grpc

METHOD = "/shop.Echo/Say"
# Longer than a client waits for a name that nobody tells it of (15 s), and less than who reads the answer waits for it.
CALL_SECONDS_MAX = 28


class Echo(grpc.GenericRpcHandler):
    address = b""

    def service(self, call):
        if call.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.address)


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    echo = Echo()
    server.add_generic_rpc_handlers((echo,))
    echo.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}".encode()
    server.start()
    return server, echo.address.decode()


def called(channels, target):
    channel = channels.setdefault(target, grpc.insecure_channel(target))
    try:
        return channel.unary_unary(METHOD)(b"", timeout=CALL_SECONDS_MAX).decode()
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}".replace("\n", " ")


servers = [serve() for _ in range(int(sys.argv[1]))]
print(*(address for _, address in servers), flush=True)
channels = {}
for line in sys.stdin:
    print(called(channels, line.strip()), flush=True)
