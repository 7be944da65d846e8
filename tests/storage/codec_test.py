from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from cprune_tf.storage import codec


@dataclasses.dataclass(frozen=True)
class _Part:
    name: str
    sizes: tuple[int, ...]
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class _Whole:
    kind: ClassVar[str] = "whole"
    parts: tuple[_Part, ...]
    by_name: Mapping[str, _Part]
    counts: Mapping[str, tuple[int, ...]]
    pair: tuple[int, int]
    limit: float | None
    part: _Part | None
    is_done: bool
    anything: Mapping[str, Any]


_PART = _Part("a", (1, 2), 0.5)
_WHOLE = _Whole((_PART,), {"b": _PART}, {"g": (3,)}, (4, 5), None, _PART, True, {"x": [1, None]})


def _fields(**changes):
    return {**json.loads(json.dumps(codec.to_fields(_WHOLE))), **changes}


def test_round_trip():
    fields = _fields()
    assert list(fields) == [field.name for field in dataclasses.fields(_Whole)]
    assert codec.from_fields(_Whole, fields, "whole") == _WHOLE
    assert type(codec.from_fields(_Whole, fields, "whole").by_name) is dict


def test_numbers_of_all_kinds():
    part = _Part("a", np.int64([1, 2]), np.float32(0.5))
    assert codec.from_fields(_Part, codec.to_fields(part), "part") == _PART
    whole = codec.from_fields(_Part, {"name": "a", "sizes": [3.0], "weight": 2}, "part")
    assert (type(whole.sizes[0]), type(whole.weight)) == (int, float)


def test_numbers_that_are_not_finite():
    fields = codec.to_fields(_Part("a", (), float("inf")))
    assert fields["weight"] is None
    assert math.isnan(codec.from_fields(_Part, fields, "part").weight)
    assert codec.from_fields(_Whole, _fields(limit=None), "whole").limit is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_done": 1}, "whole.is_done: expected true or false, received 1"),
        ({"parts": "abc"}, "whole.parts: expected a list, received 'abc'"),
        ({"by_name": []}, "whole.by_name: expected an object, received []"),
        ({"counts": {"g": [True]}}, "whole.counts['g'][0]: expected a whole number, received True"),
        ({"counts": {"g": [1.5]}}, "whole.counts['g'][0]: expected a whole number, received 1.5"),
        ({"limit": "high"}, "whole.limit: expected a number, received 'high'"),
        ({"limit": True}, "whole.limit: expected a number, received True"),
        ({"part": 3}, "whole.part: expected an object, received 3"),
        (
            {"parts": [{"name": None, "sizes": [], "weight": 1}]},
            "whole.parts[0].name: expected a string, received None",
        ),
        (
            {"part": {"name": "a", "sizes": []}},
            "whole.part: the field 'weight' is missing",
        ),
        ({"more": 1}, "whole: the field 'more' is not known"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(codec.CodecError) as caught:
        codec.from_fields(_Whole, _fields(**changes), "whole")
    assert str(caught.value) == message


def test_all_misfits_are_named():
    with pytest.raises(codec.CodecError) as caught:
        codec.from_fields(_Part, {"name": 1, "sizes": [""], "weight": {}}, "part")
    assert str(caught.value).count("expected") == 3
    with pytest.raises(codec.CodecError, match=r"part: expected an object, received \[\]"):
        codec.from_fields(_Part, [], "part")
