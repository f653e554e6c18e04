"""Write the parts of the README that the code knows better: the spec reference and the settings table.

python docs/generate.py            rewrite README.md
python docs/generate.py --check    exit 1 if it would change
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from service.settings import PREFIX, Settings
from service.spec import TrainingSpec

README = Path(__file__).parent.parent / "README.md"


def spec_reference() -> str:
    """A table of every field of a training spec, from its JSON schema."""
    schema = TrainingSpec.model_json_schema()
    rows = ["| field | values | default | |", "| --- | --- | --- | --- |"]
    rows += _rows(schema, schema["$defs"], "", TrainingSpec().model_dump(mode="json"))
    return "\n".join(rows)


def _rows(schema: dict[str, Any], definitions: dict[str, Any], path: str, defaults: Any) -> Iterator[str]:
    for name, field in schema["properties"].items():
        default = defaults.get(name) if isinstance(defaults, dict) else field.get("default")
        blocks = [item for item in _members(field, definitions) if "properties" in item]
        here = f"{path}{name}"
        if not blocks:
            values = " or ".join(filter(None, (_values(item) for item in _members(field, definitions))))
            yield f"| `{here}` | {values} | {_shown(default)} | {_text(field)} |"
            continue
        kinds = "one of these blocks" if len(blocks) > 1 else "a block"
        text = _text(field) or _text(blocks[0])  # pydantic leaves out a field's text that its block repeats
        yield f"| **`{here}`** | {kinds} | {_named(default)} | {text} |"
        for block in blocks:
            kind = block["properties"].get("name", {}).get("const")
            prefix = f"{here}.{kind}." if kind else f"{here}."
            own = default if isinstance(default, dict) and default.get("name") == kind else None
            if kind:
                yield f'| `{here}.name` = `"{kind}"` | | | {_text(block)} |'
            fields = {key: value for key, value in block["properties"].items() if key != "name" or not kind}
            filled = own or {key: value.get("default") for key, value in fields.items()}
            for row in _rows({"properties": fields}, definitions, prefix, filled):
                yield row.replace(f"`{prefix}", f"`{here}.") if kind else row


def _members(field: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a field, references resolved."""
    if "$ref" in field:
        return [definitions[field["$ref"].rsplit("/", 1)[1]]]
    found = field.get("anyOf") or field.get("oneOf")
    return [inner for item in found for inner in _members(item, definitions)] if found else [field]


def _values(item: dict[str, Any]) -> str:
    if "enum" in item:
        return ", ".join(f"`{value}`" for value in item["enum"])
    if "const" in item:
        return f"`{item['const']}`"
    if "$ref" in item:
        return "blocks"
    kind = item.get("type", "")
    if kind == "array":
        inner = item["prefixItems"] if "prefixItems" in item else [item["items"]]
        return f"list of {', '.join(_values(one) for one in inner)}"
    low = item.get("minimum", item.get("exclusiveMinimum"))
    high = item.get("maximum", item.get("exclusiveMaximum"))
    bounds = ""
    if low is not None or high is not None:
        opening = "(" if "exclusiveMinimum" in item else "["
        closing = ")" if "exclusiveMaximum" in item or high is None else "]"
        bounds = f" {opening}{_number(low)}, {_number(high)}{closing}"
    return {"null": "null", "boolean": "true, false"}.get(kind, kind + bounds)


def _number(value: float | None) -> str:
    if value is None:
        return "∞"
    if value == 2**63:
        return "2^63"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _named(value: Any) -> str:
    if isinstance(value, dict):
        return f"`{value['name']}`" if "name" in value else ""
    return "unset"


def _text(field: dict[str, Any]) -> str:
    return " ".join(str(field.get("description", "")).split()).replace("|", "\\|")


def settings_table() -> str:
    """A table of every setting."""
    rows = ["| variable | default | |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "unset" if default is None or isinstance(default, SecretStr) else f"`{default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def rendered(text: str) -> str:
    """README text with its generated parts made anew."""
    for name, make in (("spec", spec_reference), ("settings", settings_table)):
        begin, end = f"<!-- {name}: generated -->\n", f"\n<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"README.md has no markers for {name}")
        text = before + begin + make() + end + after
    return text


def main() -> int:
    old = README.read_text()
    new = rendered(old)
    if "--check" in sys.argv:
        return int(old != new)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
