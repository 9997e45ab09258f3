"""`/docs`: the interface in a browser, with scripts from this server; `/` leads there.

The page may run its own scripts only, and send requests only here.
"""

import base64
import hashlib
import re

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from app.serving.http.routes.common import PUBLIC

ASSETS = "/docs/assets"


def add_pages(api: FastAPI) -> None:
    """Add the pages."""
    # the files alone: the package's own function would change the application
    api.mount(ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]), name="assets")

    @api.get("/docs", include_in_schema=False, dependencies=[PUBLIC])
    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        page = get_swagger_ui_html(
            openapi_url=f"{root}{api.openapi_url}",
            title=api.title,
            swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{ASSETS}/favicon-32x32.png",
        )
        page.headers["content-security-policy"] = _policy_of(bytes(page.body).decode())
        return page

    @api.get("/", include_in_schema=False, dependencies=[PUBLIC])
    async def root(request: Request) -> Response:
        return RedirectResponse(request.scope.get("root_path", "").rstrip("/") + "/docs")


def _policy_of(page: str) -> str:
    """Return the content security policy of a page: its own inline scripts, by their hashes."""
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    ]
    scripts = " ".join(["'self'", *(f"'sha256-{each}'" for each in hashes)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
