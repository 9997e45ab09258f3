"""The routes that are asked most, without the framework's layers: they cost a diagnosis more than its own work in the ingress.

The framework documents them (a `DirectRoute` is in the OpenAPI document like any other) and answers everything else. An endpoint
is called with the request alone, checks the key itself and returns JSON; only an error is answered by an object of the framework.
Whoever leaves or waits too long is given up by `callers`.
Invariant: an error is answered by the handler that the framework would call.
"""

from collections.abc import Awaitable, Callable
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from app.serving.fastpath.disconnect_monitor import WATCHED, Callers

Endpoint = Callable[[Request], Awaitable[bytes]]
Handler = Callable[[Request, Exception], Awaitable[Response]]


class DirectRoute(APIRoute):
    """A route without parameters in its path whose endpoint `DirectPaths` calls; its dependencies are documentation."""


class DirectPaths:
    """Calls the endpoint of a `DirectRoute`, and the framework for all else.

    Args:
        api: with all its routes and error handlers.
        callers: watches those who wait.
    """

    def __init__(self, api: FastAPI, callers: Callers) -> None:
        self._api = api
        self._callers = callers
        self._routes = {
            (method, route.path): route
            for route in api.routes
            if isinstance(route, DirectRoute)
            for method in route.methods or ()
        }
        assert self._routes.keys() == WATCHED

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        route = None
        if scope["type"] == "http":
            route = self._routes.get(
                (scope["method"], scope["path"].removeprefix(scope.get("root_path", "")))
            )
        if route is None:
            await self._api(scope, receive, send)
            return
        scope["route"] = route
        try:
            with self._callers.watching(scope, receive) as caller:
                body = await cast("Endpoint", route.endpoint)(Request(scope, caller.receive))
        except Exception as error:
            handler, expected = self._handler_of(error)
            await (await handler(Request(scope, receive), error))(scope, receive, send)
            if not expected:
                raise
            return
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _handler_of(self, error: Exception) -> tuple[Handler, bool]:
        """Return who answers for an error, and whether it is one of those that the interface expects."""
        for kind in type(error).__mro__:
            handler = self._api.exception_handlers.get(kind)
            if handler is not None:
                return cast("Handler", handler), kind is not Exception
        raise error
