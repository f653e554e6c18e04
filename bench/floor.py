"""The least that a Python server can do for a prediction: Starlette on uvicorn reads the body and answers with bytes
that are ready. `bench.serving` sets ours against it."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ONE = b'{"label":7,"probabilities":[0.0123,0.0456,0.0789,0.1011,0.1213,0.1415,0.1617,0.1819,0.1011,0.0546]}'
MANY = b'{"predictions":[' + b",".join([ONE] * 64) + b"]}"


async def one(request: Request) -> Response:
    await request.body()
    return Response(ONE, media_type="application/json")


async def many(request: Request) -> Response:
    await request.body()
    return Response(MANY, media_type="application/json")


app = Starlette(routes=[Route("/one", one, methods=["POST"]), Route("/many", many, methods=["POST"])])
