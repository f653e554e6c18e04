"""The uploaded datasets of a submitted spec: named by id, stored by what they are."""

from typing import Any

from service.catalog import UPLOADED
from service.errors import FieldError, Invalid, NotFound
from service.store import datasets
from service.store.database import Database

PREFIX = "ds_"


def named(db: Database, spec: dict[str, Any], *, where: str) -> dict[str, Any]:
    """The spec, as JSON that nobody has read yet, with each id of `dataset.uploads` replaced by what a spec holds of
    it: hash and sizes, so that steps can be counted without the data. An id as `dataset.name` stands for that dataset
    alone. What a client says of a dataset beside its id is not taken from it. Raises Invalid that points into `where`
    for one that is not there."""
    block = spec.get("dataset")
    if not isinstance(block, dict):
        return spec
    name, listed = block.get("name"), block.get("uploads")
    if isinstance(name, str) and name.startswith(PREFIX):
        block = block | {"name": UPLOADED, "uploads": [_told(db, name, f"{where}/dataset/name")]}
    elif isinstance(listed, list):
        block = block | {
            "uploads": [
                _filled(db, one, f"{where}/dataset/uploads/{index}") for index, one in enumerate(listed)
            ]
        }
    return spec | {"dataset": block}


def _filled(db: Database, one: object, where: str) -> object:
    """What is no reference is left for the spec to refuse."""
    identifier = one.get("id") if isinstance(one, dict) else one
    return _told(db, identifier, where) if isinstance(identifier, str) else one


def _told(db: Database, identifier: str, where: str) -> dict[str, Any]:
    try:
        found = datasets.get(db, identifier)
    except NotFound as error:
        detail = f"{error.detail}: GET /v1/datasets lists those there are"
        raise Invalid(detail, code="unknown_dataset", errors=[FieldError(where, detail)]) from None
    return {
        "id": found.id,
        "sha256": found.sha256,
        "train_examples": found.train_examples,
        "test_examples": found.test_examples,
    }
