"""Mistakes in a payload: from pydantic's errors to a JSON pointer and a sentence each."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from service.errors import FieldError


def field_mistake(path: str, detail: str) -> PydanticCustomError:
    """A mistake that spans fields; `path` leads from the model that checks to the field to change."""
    return PydanticCustomError("mistake", "{detail}", {"detail": detail, "path": path})


def pointed(error: ValidationError) -> list[FieldError]:
    """The mistakes of a validation, each as a JSON pointer into the payload and a sentence."""
    found = (_pointed_one(item) for item in error.errors(include_url=False, include_input=False))
    return list(dict.fromkeys(found))  # each member of a union has its say, here in the same words


# pydantic puts the chosen member of a spec's union into the path
_TAGS_OF = {
    "optimizer": ("sgd", "adam", "amsgrad", "adamw", "muon"),
    "schedule": ("constant", "step", "exponential", "cosine", "one_cycle"),
}


def _pointed_one(item: Mapping[str, Any]) -> FieldError:
    location = [str(part) for part in item["loc"]]
    if len(location) > 1 and location[1] in _TAGS_OF.get(location[0], ()):
        del location[1]
    extra = item.get("ctx", {}).get("path") if item["type"] == "mistake" else None
    if location[-1:] == ["[key]"]:
        del location[-1]
    parts = location + (extra.split("/") if extra else [])
    message = item["msg"]
    if location[:1] == ["batch_size"]:
        parts, message = location[:1], 'give a whole number from 1 to 10,000,000, or "full"'
    if item["type"] in ("model_type", "model_attributes_type"):
        message = "must be an object"
    if item["type"] == "extra_forbidden":
        message = "there is no such field: remove it, or see the spec reference for its name"
    if item["type"].startswith("union_tag"):
        parts = [*parts, "name"]
        choices = ", ".join(sorted(_TAGS_OF[parts[0]]))
        message = f"is missing or unknown: give one of {choices}"
    pointer = "#" + "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
    return FieldError(pointer, message)
