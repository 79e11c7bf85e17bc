"""Grants as text: all fields that a token check needs survive."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from proxy.store.packed import packed, unpacked
from proxy.store.records import Grant
from tests.support.grants import PROJECT, TOKEN

MOMENT = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PARENT = replace(TOKEN, id="parent", revoked_at=MOMENT, is_active=False)
GRANT = Grant(
    replace(TOKEN, parent_id="parent", policy={"allowed_models": ["é*"]}, last_used_at=MOMENT),
    replace(PROJECT, policy={"rate_limit_rpm": 5}, deactivated_at=MOMENT),
    "sk-upstream",
    (PARENT,),
)


def test_a_grant_survives_packing() -> None:
    assert unpacked(packed(GRANT)) == GRANT


def test_texts_for_people_are_left_out() -> None:
    project = replace(PROJECT, description="secret plans", metadata={"k": "v"})
    text = packed(replace(GRANT, project=project))
    assert "secret plans" not in text
    assert (unpacked(text).project.metadata, unpacked(text).project.description) == ({}, None)


@pytest.mark.parametrize("damage", ["unknown field", "missing field", "no JSON", "a list"])
def test_text_of_another_version_is_refused(damage: str) -> None:
    stored = json.loads(packed(GRANT))
    if damage == "unknown field":
        stored["token"]["new"] = 1
    elif damage == "missing field":
        del stored["project"]["policy"]
    text = {"no JSON": "{", "a list": "[]"}.get(damage, json.dumps(stored))
    with pytest.raises((TypeError, KeyError, ValueError)):
        unpacked(text)
