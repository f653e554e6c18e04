"""The training form: every field of a spec, told from its JSON schema, so that none is forgotten."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["number", "choice", "switch", "text", "list", "json"]
Schema = Mapping[str, Any]

GENERAL = "run"  # block of what lies in no block of the spec
NAMES = {
    "l1": "L1",
    "l2": "L2",
    "run": "Length, batches and seed",
    "dataset": "Data",
    "network": "Network",
    "optimizer": "Optimiser",
    "schedule": "Learning rate schedule",
    "regularization": "Regularisation",
    "averaging": "Averaging of weights",
    "checkpoints": "Checkpoints",
}
# in the order in which one thinks of them; a block that is new comes last
ORDER = ("network", GENERAL, "optimizer", "schedule", "dataset", "regularization", "augmentation")


@dataclass(frozen=True)
class Field:
    """One input. `pointer` leads to its value in the spec; `default` is that value as JSON."""

    pointer: str
    label: str
    kind: Kind
    default: str
    nullable: bool
    help: str
    choices: tuple[str, ...] = ()
    limits: str = ""

    @property
    def id(self) -> str:
        return "f" + self.pointer.replace("/", "-")


@dataclass(frozen=True)
class Variant:
    """One of several forms of a block, told apart by `name`."""

    name: str
    help: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Block:
    """A group of inputs: a block of the spec, perhaps one that may be left out or has several forms."""

    name: str
    label: str
    help: str
    optional: bool
    variants: tuple[Variant, ...]
    default_variant: str = ""


def form_of(schema: Schema) -> list[Block]:
    """The blocks of a spec's JSON schema."""
    definitions = schema["$defs"]
    blocks: dict[str, Block] = {}
    general: list[Field] = []
    for name, field in schema["properties"].items():
        block = _block(name, field, definitions)
        if block is None:
            general.append(_field(f"/{name}", name, field))
        else:
            blocks[name] = block
    blocks[GENERAL] = Block(GENERAL, NAMES[GENERAL], "", False, (Variant("", "", tuple(general)),))
    first = [blocks.pop(name) for name in ORDER if name in blocks]
    return first + list(blocks.values())


def _block(name: str, field: Schema, definitions: Schema) -> Block | None:
    branches = [one for one in field.get("anyOf", [field]) if one != {"type": "null"}]
    default_variant = ""
    if "oneOf" in field:
        branches = list(field["oneOf"])
        default_variant = field["default"]["name"]
    if not all("$ref" in branch for branch in branches):
        return None
    variants = tuple(_variant(name, _resolved(branch, definitions)) for branch in branches)
    return Block(
        name,
        NAMES.get(name, _label(name)),
        _line(field.get("description") or variants[0].help),
        field.get("default") is None,
        variants,
        default_variant,
    )


def _resolved(branch: Schema, definitions: Schema) -> Schema:
    found: Schema = definitions[branch["$ref"].rpartition("/")[2]]
    return found


def _variant(block: str, model: Schema) -> Variant:
    fields = model["properties"]
    name = fields["name"]["const"] if "const" in fields.get("name", {}) else ""
    inputs = tuple(
        _field(f"/{block}/{key}", key, field) for key, field in fields.items() if "const" not in field
    )
    return Variant(name, _line(model.get("description", "")), inputs)


def _field(pointer: str, name: str, schema: Schema) -> Field:
    branches = [one for one in schema.get("anyOf", [schema]) if one != {"type": "null"}]
    nullable = len(branches) < len(schema.get("anyOf", [schema]))
    kind, choices = _kind(branches)
    return Field(
        pointer,
        _label(name),
        kind,
        json.dumps(schema.get("default")),
        nullable,
        _line(schema.get("description", "")),
        choices,
        _limits(branches[0]) if kind == "number" else "",
    )


def _kind(branches: list[Any]) -> tuple[Kind, tuple[str, ...]]:
    only = branches[0]
    if len(branches) > 1:
        return "text", ()
    if "enum" in only:
        return "choice", tuple(only["enum"])
    if only.get("type") in ("integer", "number"):
        return "number", ()
    if only.get("type") == "boolean":
        return "switch", ()
    if only.get("type") == "array" and "type" in only.get("items", {}) and only["items"]["type"] == "integer":
        return "list", ()
    return ("text", ()) if only.get("type") == "string" else ("json", ())


def _limits(schema: Schema) -> str:
    return " ".join(_bounds(schema))


def _bounds(schema: Schema) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for key, sign in signs.items():
        if key in schema and abs(schema[key]) < 1e6:
            yield f"{sign} {schema[key]:g}"


def _label(name: str) -> str:
    words = NAMES.get(name) or name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _line(text: str) -> str:
    return " ".join(text.split())
