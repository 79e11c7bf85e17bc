"""Rows: times survive exactly, and columns and readers agree."""

import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.store import rows
from proxy.store.records import AccessToken, Project


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_survive_to_the_microsecond(moment: datetime) -> None:
    assert rows.from_micros(rows.to_micros(moment)) == moment


def test_times_of_any_zone_are_converted() -> None:
    here = datetime(1970, 1, 1, 1, 0, 0, 5, tzinfo=timezone(timedelta(hours=1)))
    assert rows.to_micros(here) == 5
    with pytest.raises(ValueError, match="zone"):
        rows.to_micros(here.replace(tzinfo=None))


def test_column_lists_are_as_long_as_the_records() -> None:
    assert rows.PROJECT_COLUMNS.count(",") + 1 == rows.PROJECT_WIDTH
    assert len(dataclasses.fields(Project)) == rows.PROJECT_WIDTH
    assert rows.TOKEN_COLUMNS.count(",") + 1 == rows.TOKEN_WIDTH
    assert len(dataclasses.fields(AccessToken)) == rows.TOKEN_WIDTH


def test_columns_are_in_the_order_of_the_fields() -> None:
    other_names = {"api_key": "upstream_key_mask", "token": "token_mask"}
    for record, columns in ((Project, rows.PROJECT_COLUMNS), (AccessToken, rows.TOKEN_COLUMNS)):
        fields = [other_names.get(field.name, field.name) for field in dataclasses.fields(record)]
        assert [column.split(".")[1] for column in columns.split(", ")] == fields


def test_assignments() -> None:
    assert rows.assignments(["a", "b"]) == "a = ?, b = ?"


def test_a_policy_changes_field_by_field() -> None:
    before = {"a": 1, "b": [2]}
    changes = {"a": None, "c": False, "absent": None}
    assert rows.merged_policy(before, changes) == {"b": [2], "c": False}
    assert before == {"a": 1, "b": [2]}


def test_a_changed_policy_in_stored_form() -> None:
    assert rows.changed_policy({"a": 1}, {"a": None, "b": 2}) == '{"b":2}'
    assert rows.changed_policy({"a": 1}, {"a": None}) is None


def test_an_empty_policy_is_stored_as_null() -> None:
    assert rows.policy_to_json({}) is None
    assert rows.policy_to_json({"a": ["☃"]}) == '{"a":["\\u2603"]}'


def test_metadata_is_always_an_object() -> None:
    assert rows.to_json(None) == "{}"
    assert rows.to_json({"a": "☃"}) == '{"a":"\\u2603"}'
