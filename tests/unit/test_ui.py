import asyncio
import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.api.app import create_app
from service.settings import Settings
from service.spec import TrainingSpec
from service.ui import reference
from service.ui.assets import FOLDER, Assets
from service.ui.form import Field, form_of
from service.ui.pages import TEMPLATES, VIEWS

PAGE = {"Accept": "text/html,application/xhtml+xml"}


class Browser:
    """Asks an application that is not started: pages need nothing that is opened then."""

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("GET", path, **options)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://localhost") as client:
                return await client.request(method, path, **options)

        return asyncio.run(asked())


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser(create_app(Settings(home=tmp_path_factory.mktemp("home"))))


def addresses(html: str) -> set[str]:
    return set(re.findall(r'(?:src|href)="(/static/[^"]+)"', html))


def test_every_view_and_every_file_that_it_names_is_there(http: Browser) -> None:
    for path in VIEWS:
        page = http.get(path, headers=PAGE)
        assert page.status_code == 200, path
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert len(addresses(page.text)) > 3
        for address in addresses(page.text):
            file = http.get(address)
            assert file.status_code == 200, address
            assert "immutable" in file.headers["Cache-Control"]


def test_programs_get_json_where_people_get_the_page(http: Browser) -> None:
    assert http.get("/").json()["name"] == "numeral"
    assert http.get("/", headers=PAGE).text.startswith("<!doctype html>")
    assert "Accept" in http.get("/", headers=PAGE).headers["Vary"]
    assert http.get("/nowhere", headers=PAGE).json()["code"] == "no_such_path"
    assert http.ask("POST", "/train").json()["code"] == "method_not_allowed"


def test_what_the_browser_has_is_not_sent_again(http: Browser) -> None:
    first = http.get("/train", headers=PAGE | {"Accept-Encoding": "identity"})
    again = http.get("/train", headers=PAGE | {"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    packed = http.get("/train", headers=PAGE | {"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.text == first.text
    assert int(packed.headers["Content-Length"]) < len(first.content) / 4


def test_files_have_another_address_when_one_of_them_changes(http: Browser, tmp_path: Any) -> None:
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "one.js").write_text("export const one = 1;\n" * 100)
    (tmp_path / "two.css").write_text("p { margin: 0 }\n")
    before = Assets(tmp_path)
    content = before.find(before.digest, "js/one.js")
    assert content is not None
    assert content.media_type == "text/javascript; charset=utf-8"
    assert content.packed is not None
    assert gzip.decompress(content.packed) == content.plain
    (tmp_path / "two.css").write_text("p { margin: 1px }\n")
    after = Assets(tmp_path)
    assert before.address("js/one.js") != after.address("js/one.js")
    assert after.find(before.digest, "js/one.js") is None
    assert after.find(after.digest, "../pages.py") is None
    with pytest.raises(KeyError):
        after.address("js/none.js")
    assert http.get("/static/000000000000/js/page.js").status_code == 404


def test_what_is_vendored_is_what_was_published() -> None:
    vendor = FOLDER / "vendor"
    (package,) = json.loads((vendor / "vendored.json").read_text())
    assert len(base64.b64decode(package["integrity"].removeprefix("sha512-"))) == 64
    found = {
        path.relative_to(vendor).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (vendor / package["name"]).iterdir()
    }
    assert found == package["files"]
    assert "uplot/LICENSE" in found


def test_nothing_is_written_that_the_policy_forbids() -> None:
    for path in TEMPLATES.iterdir():
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", text), path
        assert not re.search(r"<script(?![^>]*\ssrc=)", text), path
        assert not re.search(r"(?:src|href)=.(?:https?:)?//", text), path
    for path in (FOLDER / "js").iterdir():
        assert not re.search(r"innerHTML|insertAdjacentHTML|eval\(|new Function", path.read_text()), path


def leaves(value: Any, pointer: str = "") -> Iterator[str]:
    """Pointers to the values of a spec, down to what one input holds."""
    for key, inner in value.items():
        if isinstance(inner, dict) and key != "classes":
            yield from leaves(inner, f"{pointer}/{key}")
        elif not (key == "name" and pointer in ("/optimizer", "/schedule")):
            yield f"{pointer}/{key}"


def fields(variant: str = "") -> dict[str, Field]:
    return {
        field.pointer: field
        for block in form_of(TrainingSpec.model_json_schema())
        for one in block.variants
        if one.name in ("", block.default_variant, variant)
        for field in one.fields
    }


def test_the_form_has_every_field_of_a_spec() -> None:
    blocks = ("augmentation", "averaging", "committee", "distillation", "early_stopping")
    spec = TrainingSpec.model_validate(
        {
            "augmentation": {},
            "averaging": {},
            "early_stopping": {},
            "dataset": {"validation": 100},
        }
    ).model_dump(mode="json")
    expected = {
        pointer for pointer in leaves(spec) if pointer.split("/")[1] not in ("committee", "distillation")
    }
    found = fields()
    assert expected == {
        pointer for pointer in found if pointer.split("/")[1] not in ("committee", "distillation")
    }
    optional = {block.name for block in form_of(TrainingSpec.model_json_schema()) if block.optional}
    assert optional == set(blocks)


def test_fields_are_told_by_what_they_take() -> None:
    found = fields("muon")
    assert {pointer: found[pointer].kind for pointer in found if "batch" in pointer} == {
        "/batch_size": "text"
    }
    assert found["/network/hidden_widths"].kind == "list"
    assert found["/network/activation"].choices[:2] == ("relu", "leaky_relu")
    assert found["/augmentation/classes"].kind == "json"
    assert found["/deterministic"].kind == "switch"
    assert (found["/regularization/dropout"].limits, found["/regularization/l1"].label) == ("≥ 0 < 1", "L1")
    assert (found["/epochs"].nullable, found["/seed"].nullable) == (True, False)
    assert json.loads(found["/optimizer/adam_learning_rate"].default) == 0.001


def test_the_reference_has_every_call(http: Browser) -> None:
    description = http.get("/openapi.json").json()
    calls = [call for chapter in reference.chapters(description) for call in chapter.calls]
    expected = sum(len(methods) for methods in description["paths"].values())
    assert len(calls) == expected
    page = http.get("/docs", headers=PAGE).text
    for call in calls:
        assert f'id="{call.id}"' in page
        assert call.summary
    predict = next(call for call in calls if call.id == "predictions_predict")
    assert "image/png" in predict.bodies
    assert {one.name for one in predict.parameters} >= {"include", "min_confidence"}
    assert "&lt;" in str(reference.marked("a < `b`"))
