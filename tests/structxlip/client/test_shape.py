"""What the client is made of: light to import, described for those who read `help`, frozen in its results."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import structxlip.client
from service import problems
from structxlip.client import ApiError, AsyncClient, Client, Hit, Problem, StructXLIPError, errors, results
from structxlip.client.errors import error_of

HEAVY = ("torch", "open_clip", "cv2", "PIL", "spacy", "faiss", "fastapi", "pydantic", "structlog")


def test_it_is_imported_without_the_model_or_the_service() -> None:
    code = f"import sys, structxlip.client; print(sorted(set({HEAVY}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


def test_methods_show_the_parameters_and_the_result_of_their_call() -> None:
    for kind in (Client, AsyncClient):
        signature = inspect.signature(kind.search)
        assert list(signature.parameters)[:3] == ["self", "text", "image"]
        assert signature.return_annotation == "SearchResult"
        assert "structure_weight" in (kind.search.__doc__ or "")
    with Client() as client:
        assert next(iter(inspect.signature(client.search).parameters)) == "text"
    assert inspect.iscoroutinefunction(AsyncClient.search)


def test_every_result_is_frozen() -> None:
    members: list[tuple[str, Any]] = inspect.getmembers(results, dataclasses.is_dataclass)
    kinds = [kind for _, kind in members]
    assert len(kinds) > 15
    assert [kind.__name__ for kind in kinds if not kind.__dataclass_params__.frozen] == []
    returned = {kind.__name__ for kind in kinds} - {"ImagePage"}
    assert returned <= set(structxlip.client.__all__)


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = set(re.findall(r"\w+Error", errors.__doc__ or ""))
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, StructXLIPError)}
    assert {kind.__name__ for kind in kinds} == drawn
    assert drawn <= set(structxlip.client.__all__)


def test_every_problem_of_the_service_has_its_exception() -> None:
    for name, kind in inspect.getmembers(problems, inspect.isclass):
        if not issubclass(kind, problems.Problem) or name.startswith("_") or kind is problems.Problem:
            continue
        error = error_of(Problem(kind.type, kind.title, kind.status, "detail"))
        is_own = type(error) not in (ApiError, errors.ServerError)
        assert is_own or kind.status in (408, 415, 421, 500), name
        assert isinstance(error, errors.PictureError) == issubclass(
            kind, problems.ImageProblem | problems.RemoteImageProblem
        ), name


@given(status=st.integers(400, 599), type=st.text(), request_id=st.none() | st.text())
def test_any_problem_becomes_an_exception_that_can_be_shown_and_sent(
    status: int, type: str, request_id: str | None
) -> None:
    error = error_of(Problem(type, "title", status, "detail"), request_id)
    assert "detail" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.problem, again.request_id, str(again)) == (error.problem, request_id, str(error))


HIT = {
    "id": "a",
    "score": 0.3,
    "scores": {"appearance": 0.2, "structure": 0.5},
    "confidence": 0.9,
    "metadata": {},
    "caption": None,
    "links": {},
}


@given(st.dictionaries(st.text(min_size=1).map(lambda name: f"new-{name}"), st.integers()))
def test_what_a_later_service_adds_is_passed_over(more: dict[str, int]) -> None:
    assert Hit.from_json({**HIT, **more}) == Hit.from_json(HIT)


@pytest.mark.parametrize("name", sorted(set(HIT) - {"confidence"}))
def test_what_every_service_sends_is_asked_for(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        Hit.from_json({key: value for key, value in HIT.items() if key != name})


def test_what_an_earlier_service_does_not_send_is_none() -> None:
    earlier = Hit.from_json({name: value for name, value in HIT.items() if name != "confidence"})
    assert (earlier.confidence, earlier.explanation) == (None, None)
