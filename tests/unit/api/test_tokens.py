"""What a token is, and that only the right one matches."""

from __future__ import annotations

import base64
import hashlib

import pytest

from celeray.api.tokens import Role, matching, mint

NOW = 1_700_000_000.0


def test_a_token_has_256_random_bits_and_only_its_digest_is_kept() -> None:
    token, text = mint(Role.OPERATOR, now=NOW, valid_s=60, note="ci")
    prefix, token_id, secret = text.split("_", 2)
    assert (prefix, token_id) == ("celeray", token.id)
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32
    assert token.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert secret not in token.model_dump_json()
    assert (token.created_at, token.expires_at, token.note) == (NOW, NOW + 60, "ci")


def test_tokens_differ() -> None:
    assert len({mint(Role.VIEWER, now=NOW, valid_s=1)[1] for _ in range(100)}) == 100


def test_only_the_right_text_matches() -> None:
    (one, text), (other, other_text) = (mint(Role.VIEWER, now=NOW, valid_s=60) for _ in range(2))
    tokens = (one, other)
    assert matching(tokens, text, NOW) is one
    assert matching(tokens, other_text, NOW) is other
    swapped = text.replace(one.id, other.id)
    for wrong in (
        swapped,
        text + "x",
        text[:-1],
        text.upper(),
        one.sha256,
        "",
        "_",
        "__",
        "celeray__",
        "\ud800",
    ):
        assert matching(tokens, wrong, NOW) is None, wrong
    assert matching((), text, NOW) is None


def test_a_secret_may_have_underscores() -> None:
    found = next(
        (token, text)
        for token, text in (mint(Role.VIEWER, now=NOW, valid_s=60) for _ in range(1000))
        if text.count("_") > 2
    )
    assert matching([found[0]], found[1], NOW) is found[0]


def test_an_expired_one_does_not_match() -> None:
    token, text = mint(Role.VIEWER, now=NOW, valid_s=60)
    assert matching([token], text, NOW + 59.9) is token
    assert matching([token], text, NOW + 60) is None


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.VIEWER, {Role.VIEWER}),
        (Role.OPERATOR, {Role.VIEWER, Role.OPERATOR}),
        (Role.ADMIN, set(Role)),
    ],
)
def test_each_role_may_what_those_before_it_may(role: Role, may: set[Role]) -> None:
    assert {needed for needed in Role if role.covers(needed)} == may
