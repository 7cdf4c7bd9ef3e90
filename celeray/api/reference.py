"""`/docs` and `/openapi.json`: the reference. Swagger UI comes from an installed package, never from a CDN."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from celeray.api.access import RULES, Rule
from celeray.api.problems import Problem

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
"""Files of the package fastapi-offline, and no others."""
ASSETS_HEADERS = {"Cache-Control": "private, max-age=86400"}
SCHEME = "token"


def router(app: FastAPI) -> APIRouter:
    """The routes over the schema of `app`."""
    routes = APIRouter(include_in_schema=False)
    page = _page(app.title)
    headers = {"Content-Security-Policy": content_policy(page)}

    @routes.get("/openapi.json")
    def get_schema() -> dict[str, Any]:
        return with_roles(app.openapi(), RULES)

    @routes.get("/docs", response_class=HTMLResponse)
    def get_page() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    @routes.get("/docs/{asset}", response_class=Response)
    def get_asset(asset: str) -> Response:
        if asset not in ASSETS:
            raise Problem(404, f"no such path: /docs/{asset}")
        content = (files("fastapi_offline") / "static" / asset).read_bytes()
        return Response(content, media_type=ASSETS[asset], headers=ASSETS_HEADERS)

    return routes


def content_policy(page: str) -> str:
    """What the page may load: its own files, and the one inline script by its digest."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src 'self' {digests}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def with_roles(schema: dict[str, Any], rules: Sequence[Rule]) -> dict[str, Any]:
    """The schema, saying of each operation whether it takes a token and which role that needs."""
    for rule in rules:
        operation = schema["paths"].get(rule.path, {}).get(rule.method.lower())
        if operation is None or rule.role is None:
            continue
        # An empty requirement says that it may do without.
        operation["security"] = [{SCHEME: []}, {}] if rule.may_be_open else [{SCHEME: []}]
        operation["x-celeray-role"] = str(rule.role)
    schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes[SCHEME] = {"type": "http", "scheme": "bearer", "description": "`celeray token create` makes one"}
    return schema


def _page(title: str) -> str:
    found = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=f"{title} - REST",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )
    return bytes(found.body).decode()
