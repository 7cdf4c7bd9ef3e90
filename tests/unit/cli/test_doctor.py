"""`doctor`: each check on its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from celery import Celery

from celeray.api.token_file import TokenFile
from celeray.api.tokens import Role, mint
from celeray.cli.doctor import check_api, check_content, check_packages, check_ray_token, check_redis
from celeray.scheduler.settings import Settings


def verdicts(findings: object) -> dict[str, str]:
    return {item.check: item.verdict for item in findings}  # type: ignore[attr-defined]


def token(path: Path, mode: int) -> dict[str, str]:
    path.write_text("secret")
    path.chmod(mode)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def test_packages_of_this_environment_are_good() -> None:
    assert set(verdicts(check_packages()).values()) == {"ok"}


def test_a_wrong_package_and_an_old_celery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celeray.cli.doctor.version", lambda package: "5.6.2")
    assert verdicts(check_packages()) == {"celery": "failed", "pynvml": "warning", "nvidia-ml-py3": "warning"}


def test_rays_token(tmp_path: Path) -> None:
    assert verdicts(check_ray_token(token(tmp_path / "a", 0o600))) == {
        "RAY_AUTH_MODE": "ok",
        "Ray's token": "ok",
    }
    assert verdicts(check_ray_token(token(tmp_path / "b", 0o644)))["Ray's token"] == "failed"
    missing = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "c")}
    assert verdicts(check_ray_token(missing)) == {"RAY_AUTH_MODE": "failed", "Ray's token": "warning"}
    assert verdicts(check_ray_token({"RAY_AUTH_TOKEN": "x"})) == {
        "RAY_AUTH_MODE": "warning",
        "Ray's token": "warning",
    }


def test_content_types() -> None:
    app = Celery("doctor", set_as_current=False)
    app.conf.accept_content = ["json", "msgpack"]
    app.conf.result_accept_content = ["json", "pickle"]
    findings = list(check_content(app.conf))
    assert verdicts(findings) == {"accept_content": "ok", "result_accept_content": "failed"}
    assert "pickle" in findings[1].detail


def test_a_redis_that_does_not_answer() -> None:
    client = redis.Redis(port=1, socket_connect_timeout=0.2)
    assert verdicts(check_redis(client)) == {"Redis": "failed"}


def test_the_apis_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"

    def found(**changes: object) -> tuple[str, str]:
        (finding,) = check_api(Settings(api_tokens_file=path, **changes))  # type: ignore[arg-type]
        return finding.verdict, finding.detail

    assert found()[0] == "ok"
    assert found(api_read_requires_token=True)[0] == "warning"
    soon, _ = mint(Role.VIEWER, now=time.time(), valid_s=3600.0)
    TokenFile(path).add(soon)
    verdict, detail = found(api_read_requires_token=True)
    assert (verdict, soon.id in detail) == ("warning", True)
    TokenFile(path).remove(soon.id)
    TokenFile(path).add(mint(Role.VIEWER, now=time.time(), valid_s=30 * 86_400.0)[0])
    assert found(api_read_requires_token=True)[0] == "ok"
    path.chmod(0o644)
    assert found() == ("warning", found()[1])
    assert "chmod 600" in found()[1]
