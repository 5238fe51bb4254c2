"""Pages: a stub until they are written."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

__all__ = ["error_response", "routes"]


async def _home(request: Request) -> Response:
    request.app.state.live.page_took(0.001)
    return HTMLResponse(f'<form method="post"><input name="csrf" value="{request.state.csrf}"></form>')


routes: list[Route] = [Route("/", _home, methods=["GET"])]


def error_response(request: Request, status: int, message: str) -> Response:
    """A page that says what went wrong."""
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(f"{message}\n", status)
