"""`/docs` without a CDN: every file that the page names is served here, under a policy that lets nothing else in."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

pytestmark = pytest.mark.integration


def test_the_page_loads_only_what_is_served_here(api: TestClient) -> None:
    page = api.get("/docs")
    assert page.status_code == 200
    named = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(named) == 3
    for path in named:
        assert path.startswith("/docs/")
        asset = api.get(path)
        assert asset.status_code == 200
        assert len(asset.content) > 1000
        assert asset.headers["x-content-type-options"] == "nosniff"
    assert "://" not in re.sub(r"<svg.*?</svg>", "", page.text, flags=re.DOTALL)


def test_its_policy_allows_its_one_inline_script_and_no_other(api: TestClient) -> None:
    page = api.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/]{43}='", policy["script-src"])
    assert page.text.count("<script>") == 1


@pytest.mark.parametrize("name", ["redoc.standalone.js", "..%2f__init__.py", "x"])
def test_no_other_file(api: TestClient, name: str) -> None:
    assert api.get(f"/docs/{name}").status_code == 404


def test_the_schema_says_which_role(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    paths = schema["paths"]
    assert paths["/v1/queues/{name}/pause"]["post"]["x-celeray-role"] == "operator"
    assert paths["/v1/queues/{name}/pause"]["post"]["security"] == [{"token": []}]
    assert paths["/v1/status"]["get"]["security"] == [{"token": []}, {}]
    assert "security" not in paths["/healthz"]["get"]
    assert schema["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
