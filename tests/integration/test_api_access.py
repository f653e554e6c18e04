"""API keys at every door: routes, streams, and the short ways below FastAPI. What a key may not do leaves no trace."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from service.api.app import NOUNS
from service.api.guards import scopes
from service.client import ApiError, Client
from service.keys import SCOPES, Scope, Secret
from service.settings import Settings
from service.store import keys, schema
from service.store.database import Database
from service.store.keys import Limits
from tests.archives import examples, of_idx
from tests.integration.conftest import Live, eventually, serving
from tests.integration.test_api_express import JSON
from tests.integration.test_wire import answer, connected, request

WITHOUT_KEY = {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
ROUTES = [route for noun in NOUNS for route in noun.router.routes if isinstance(route, APIRoute)]
CALLS = sorted((method, route.path_format) for route in ROUTES for method in route.methods or ())
LOCKED = [(method, path) for method, path in CALLS if path not in WITHOUT_KEY] + [
    ("GET", "/openapi.json"),
    ("GET", "/v1/nothing"),
    ("POST", "/livez/nothing"),
]
SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


def filled(path: str) -> str:
    return re.sub(r"{\w+}", "x", path.replace("{key_id}", "num_aaaaaaaa").replace("{format}", "csv"))


def bearer(secret: Secret | str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret if isinstance(secret, str) else secret.text}"}


@contextmanager
def database(settings: Settings) -> Iterator[Database]:
    db = Database(settings.database)
    schema.migrate(db)
    yield db
    db.close()


def made(db: Database, *scopes_: Scope, **options: Any) -> Secret:
    secret = Secret.new()
    keys.create(db, secret, name="test", scopes=scopes_, **options)
    return secret


@contextmanager
def locked(settings: Settings) -> Iterator[tuple[Live, Secret]]:
    """An API that asks for keys, and one of scope admin."""
    with database(settings) as db:
        admin = made(db, "admin")
    with serving(settings) as live:
        yield live, admin


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, settings_for: Callable[..., Settings]
) -> Iterator[tuple[Live, Mapping[Scope, Secret]]]:
    """One for the tests that leave nothing behind, with a model in memory and a key of each scope."""
    with locked(settings_for(tmp_path_factory.mktemp("home"), auth="on")) as (live, admin):
        model = live.model(7)
        classifier = live.server.application.state.context.classifier
        eventually(lambda: (found := classifier.at_hand("latest")) and found.model.id == model.id)
        yield live, {scope: made(live.db, scope) for scope in SCOPES} | {"admin": admin}


def test_the_description_has_every_route_and_says_what_each_asks_for(
    guarded: tuple[Live, Mapping[Scope, Secret]],
) -> None:
    live, holders = guarded
    described = live.http.get("/openapi.json", headers=bearer(holders["predict"])).json()
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    told = {(method.upper(), path) for path, found in described["paths"].items() for method in found}
    assert told == {
        (method, r.path_format) for r in ROUTES if r.include_in_schema for method in r.methods or ()
    }
    for method, path in told:
        operation = described["paths"][path][method.lower()]
        if path in WITHOUT_KEY:
            assert "security" not in operation
            continue
        asked = [scope for need in operation["security"] for scope in need["key"]]
        assert asked, (method, path)
        assert set(asked) <= set(SCOPES), (method, path)
        assert {"401", "403", "421", "429"} <= operation["responses"].keys(), (method, path)


@pytest.mark.parametrize(("method", "path"), LOCKED)
def test_without_a_good_key_every_route_but_health_answers_401(
    guarded: tuple[Live, Mapping[Scope, Secret]], method: str, path: str
) -> None:
    live, _ = guarded
    before = live.trace()
    for headers, code in (
        ({}, "missing_api_key"),
        ({"Authorization": "Basic bnVtZXJhbDpudW1lcmFs"}, "missing_api_key"),
        (bearer("num_aaaaaaaa"), "invalid_api_key"),
        (bearer(Secret.new()), "invalid_api_key"),
    ):
        refused = live.http.request(method, filled(path), headers=headers)
        assert refused.status_code == 401, (headers, refused.text)
        assert refused.headers["WWW-Authenticate"].startswith('Bearer realm="numeral"')
        assert SECURITY.items() <= refused.headers.items()
        if method == "HEAD":
            continue
        if path.startswith("/v2"):
            assert refused.json().keys() == {"error"}
        else:
            assert refused.headers["Content-Type"] == "application/problem+json"
            assert refused.json()["code"] == code
    assert live.trace() == before


@pytest.mark.parametrize("path", sorted(WITHOUT_KEY))
def test_what_watches_over_the_service_needs_none(
    guarded: tuple[Live, Mapping[Scope, Secret]], path: str
) -> None:
    live, _ = guarded
    assert live.http.get(path).status_code == 200
    assert live.http.get(path, headers={"Host": "10.0.0.7:8000"}).status_code == 200


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_reaches_as_far_as_its_scope(
    guarded: tuple[Live, Mapping[Scope, Secret]], scope: Scope
) -> None:
    """What it may not do is refused before anything is read; what it may, is not refused for its key."""
    live, holders = guarded
    before = live.trace()
    for route in ROUTES:
        needed = scopes.needed(route.endpoint)
        if needed == scopes.OPEN or (scope == "admin" and route.path_format.startswith("/v1/keys")):
            continue
        for method in sorted(route.methods or ()):
            found = live.http.request(method, filled(route.path_format), headers=bearer(holders[scope]))
            where = (scope, method, route.path_format, found.text)
            assert found.status_code != 401, where
            is_allowed = scope == "admin" or scope in needed
            assert (found.status_code != 403) is is_allowed, where
            if not is_allowed and method != "HEAD":
                assert f"scope {' or '.join(needed)}" in found.text, where
                assert f'scope="{needed[0]}"' in found.headers["WWW-Authenticate"]
    if scope not in ("train", "admin"):
        assert live.trace() == before


def test_a_read_key_cannot_train(guarded: tuple[Live, Mapping[Scope, Secret]]) -> None:
    live, holders = guarded
    before = live.trace()
    refused = live.http.post("/v1/jobs", json={"preset": "slp-200"}, headers=bearer(holders["read"]))
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert "the scope train; the API key num_" in refused.json()["detail"]
    assert live.trace() == before
    assert live.http.post("/v1/jobs", json={}, headers=bearer(holders["train"])).status_code == 202


def test_the_short_way_asks_for_keys_too(
    guarded: tuple[Live, Mapping[Scope, Secret]], answers: list[bool]
) -> None:
    live, holders = guarded
    with connected(live) as connection:

        def ask(secret: Secret | None) -> int:
            headers = [] if secret is None else [f"Authorization: Bearer {secret.text}"]
            connection.sendall(request(JSON, *headers))
            status, told, _ = answer(connection)
            assert SECURITY.items() <= told.items()
            assert "server" not in told
            return status

        assert ask(None) == 401
        assert ask(holders["read"]) == ask(holders["read"]) == 403
        assert ask(Secret.new()) == 401
        assert answers == []  # nothing looked at their bodies
        secret = made(live.db, "predict")
        assert ask(secret) == 200  # the long way, on which the key is looked up
        assert ask(secret) == 200
        assert answers == [True]
        keys.revoke(live.db, secret.id)
        eventually(lambda: ask(secret) == 401, seconds=2)


def test_a_key_expires(guarded: tuple[Live, Mapping[Scope, Secret]]) -> None:
    live, _ = guarded
    secret = made(live.db, "predict", expires_in=1.5)
    assert live.http.post("/v1/predict", content=JSON, headers=bearer(secret)).status_code == 200
    eventually(
        lambda: live.http.post("/v1/predict", content=JSON, headers=bearer(secret)).status_code == 401,
        seconds=5,
    )
    refused = live.http.get("/v1/jobs", headers=bearer(secret))
    assert (refused.status_code, refused.json()["code"]) == (401, "api_key_expired")


def test_a_stream_ends_with_its_key(guarded: tuple[Live, Mapping[Scope, Secret]]) -> None:
    live, _ = guarded
    secret = made(live.db, "read")
    job_id = live.submit()
    attempt = live.claim(job_id)
    headers = bearer(secret) | {"Accept": "text/event-stream"}
    with live.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        assert stream.status_code == 200
        lines = stream.iter_lines()
        assert any(line.startswith("event: status") for line in lines)
        keys.revoke(live.db, secret.id)
        time.sleep(1.1)  # for which it is known to be good
        live.checkpoint(attempt, b"x")
        with pytest.raises(httpx.RemoteProtocolError):
            assert not any("checkpoint" in line for line in lines)


def test_use_is_noted_and_not_at_every_request(guarded: tuple[Live, Mapping[Scope, Secret]]) -> None:
    live, _ = guarded
    secret = made(live.db, "read")
    assert keys.get(live.db, secret.id).last_used_at is None
    live.http.get("/v1/jobs", headers=bearer(secret))
    eventually(lambda: keys.get(live.db, secret.id).last_used_at)
    noted = keys.get(live.db, secret.id).last_used_at
    time.sleep(1.1)
    live.http.get("/v1/jobs", headers=bearer(secret))
    time.sleep(0.3)
    assert keys.get(live.db, secret.id).last_used_at == noted


def test_keys_over_http(guarded: tuple[Live, Mapping[Scope, Secret]]) -> None:
    live, holders = guarded
    admin = bearer(holders["admin"])
    asked = {"name": "scanner", "scopes": ["predict", "read", "read"], "limits": {"requests_per_minute": 5}}
    answered = live.http.post("/v1/keys", json=asked, headers=admin)
    assert answered.status_code == 201, answered.text
    assert answered.headers["Cache-Control"] == "no-store"
    new = answered.json()
    secret = new.pop("key")
    assert (new["scopes"], new["state"], new["expires_at"]) == (["predict", "read"], "good", None)
    assert new["limits"]["requests_per_minute"] == 5
    assert live.http.get(answered.headers["Location"], headers=admin).json() == new
    listed = live.http.get("/v1/keys?limit=100", headers=admin)
    assert new in listed.json()["data"]
    assert secret not in listed.text
    page = live.http.get("/v1/keys?limit=1", headers=admin).json()
    assert page["next"] == page["data"][0]["id"]
    assert live.http.get("/v1/jobs", headers=bearer(secret)).status_code == 200
    revoked = live.http.post(f"/v1/keys/{new['id']}/revoke", headers=admin)
    assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
    again = live.http.post(f"/v1/keys/{new['id']}/revoke", headers=admin).json()
    assert again["revoked_at"] == revoked.json()["revoked_at"]
    eventually(lambda: live.http.get("/v1/jobs", headers=bearer(secret)).status_code == 401, seconds=2)
    for wrong in (
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "", "scopes": ["read"]},
    ):
        assert live.http.post("/v1/keys", json=wrong, headers=admin).status_code == 422
    assert live.http.get("/v1/keys/num_aaaaaaaa", headers=admin).json()["code"] == "api_key_not_found"
    with live.db.read() as connection:
        kept = connection.exec_driver_sql("SELECT * FROM api_key").all()
    assert secret not in str(kept)


def test_where_none_is_needed_nobody_makes_keys_over_http(live: Live) -> None:
    refused = live.http.post("/v1/keys", json={"name": "x", "scopes": ["admin"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "auth_off")
    assert live.http.get("/v1/jobs", headers=bearer("nonsense")).status_code == 200


def test_the_client_takes_a_key_and_never_shows_it(
    guarded: tuple[Live, Mapping[Scope, Secret]], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, holders = guarded
    text = holders["read"].text
    with Client(live.url) as client, pytest.raises(ApiError) as refusal:
        client.jobs.get("job_0")
    assert (refusal.value.status, refusal.value.code) == (401, "missing_api_key")
    with Client(live.url, api_key=text) as client:
        list(client.jobs.list())
        with pytest.raises(ApiError) as refusal:
            client.jobs.create(preset="slp-200")
        assert refusal.value.code == "insufficient_scope"
        assert (
            text
            not in f"{client!r} {vars(client)} {refusal.value} {vars(client._connection)} {client._connection._http.headers!r}"
        )
    monkeypatch.setenv("NUMERAL_API_KEY", f" {text}\n")
    with Client(live.url) as client:
        list(client.jobs.list())
    with pytest.raises(ValueError, match="characters") as mistake:
        Client(live.url, api_key=f"{text}\nX: y")
    assert text not in str(mistake.value)


def test_quotas_name_their_limit_and_what_to_do(
    database_url: str, tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    limits = {"key_queued_jobs": 2, "key_stored_bytes": 100}
    with locked(settings_for(tmp_path, auth="on", database_url=database_url, **limits)) as (live, _):
        secret, other = made(live.db, "train"), made(live.db, "train")
        wide = made(live.db, "train", limits=Limits(max_queued_jobs=5))

        def submit(holder: Secret, **options: Any) -> httpx.Response:
            return live.http.post("/v1/jobs", json={}, headers=bearer(holder) | options)

        first = submit(secret, **{"Idempotency-Key": "mine"}).json()["id"]
        assert submit(secret).status_code == 202
        live.http.post(f"/v1/jobs/{first}/pause", headers=bearer(secret))  # a paused one still waits
        before = live.trace()
        refused = submit(secret)
        assert (refused.status_code, refused.json()["code"]) == (429, "queued_jobs_quota")
        assert refused.headers["Retry-After"] == "30"
        assert "limit of 2" in refused.json()["detail"]
        sweep = {"grid": {"seed": [0, 1, 2]}}
        assert (
            live.http.post("/v1/sweeps", json=sweep, headers=bearer(other)).json()["code"]
            == "queued_jobs_quota"
        )
        assert live.trace() == before
        assert live.http.post("/v1/sweeps", json=sweep, headers=bearer(wide)).status_code == 202
        assert submit(secret, **{"Idempotency-Key": "mine"}).json()["id"] == first  # nothing new
        assert submit(other, **{"Idempotency-Key": "mine"}).json()["id"] != first  # a name of another's

        live.http.post(f"/v1/jobs/{first}/cancel", headers=bearer(secret))
        job_id = submit(secret).json()["id"]
        live.checkpoint(live.claim(job_id), b"x" * 100)
        refused = submit(secret)
        assert (refused.status_code, refused.json()["code"]) == (409, "stored_bytes_quota")
        assert "100 bytes, its limit is 100" in refused.json()["detail"]
        assert submit(other).status_code == 202


def test_the_quota_of_bytes_counts_batches(
    database_url: str, tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(tmp_path, auth="on", database_url=database_url, key_stored_bytes=1500)
    with locked(settings) as (live, _):
        live.model(7)
        secret, other = made(live.db, "predict", "train"), made(live.db, "predict")

        def send(holder: Secret, **headers: str) -> httpx.Response:
            headers |= bearer(holder) | {"Content-Type": "application/octet-stream"}
            return live.http.post("/v1/batches", content=bytes(784), headers=headers)

        first = send(secret, **{"Idempotency-Key": "mine"})
        assert first.status_code == 202
        before = live.trace()
        refused = send(secret)
        assert (refused.status_code, refused.json()["code"]) == (409, "stored_bytes_quota")
        assert "take 784 bytes, its limit is 1,500" in refused.json()["detail"]
        assert live.trace() == before
        assert send(secret, **{"Idempotency-Key": "mine"}).json() == first.json()  # nothing new
        assert send(other).status_code == 202
        live.checkpoint(live.claim(_job(live, secret)), bytes(716))
        refused = live.http.post("/v1/jobs", json={}, headers=bearer(secret))
        assert (refused.status_code, refused.json()["code"]) == (409, "stored_bytes_quota")
        address = f"/v1/batches/{first.json()['id']}"
        live.http.post(f"{address}/cancel", headers=bearer(secret)).raise_for_status()
        assert send(secret).status_code == 202


def test_the_quota_of_bytes_counts_datasets(
    database_url: str, tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(tmp_path, auth="on", database_url=database_url, key_stored_bytes=50_000)
    with locked(settings) as (live, _):
        secret, other = made(live.db, "train"), made(live.db, "train")

        def upload(holder: Secret, seed: int) -> httpx.Response:
            data = of_idx(examples(40, seed=seed), examples(5))
            return live.http.post(f"/v1/datasets?name=d{seed}", content=data, headers=bearer(holder))

        first = upload(secret, 1)
        assert first.status_code == 201
        before = live.trace()
        refused = upload(secret, 2)
        assert (refused.status_code, refused.json()["code"]) == (409, "stored_bytes_quota")
        assert "its limit is 50,000" in refused.json()["detail"]
        assert live.trace() == before
        assert upload(secret, 1).status_code == 200  # nothing new
        assert upload(other, 2).status_code == 201
        live.http.delete(f"/v1/datasets/{first.json()['id']}", headers=bearer(secret)).raise_for_status()
        assert upload(secret, 3).status_code == 201


def _job(live: Live, holder: Secret) -> str:
    return str(live.http.post("/v1/jobs", json={}, headers=bearer(holder)).json()["id"])


def test_rates_are_told_and_kept(
    tmp_path: Path, settings_for: Callable[..., Settings], answers: list[bool]
) -> None:
    with serving(settings_for(tmp_path, requests_per_minute=6)) as live:
        model = live.model(7)
        classifier = live.server.application.state.context.classifier
        eventually(lambda: (found := classifier.at_hand("latest")) and found.model.id == model.id)
        left = []
        with connected(live) as connection:
            for number in range(6):
                connection.sendall(
                    request(JSON, path="/v1/predict?on_error=item" if number == 3 else "/v1/predict")
                )
                status, headers, _ = answer(connection)
                assert (status, headers["ratelimit-policy"]) == (200, '"minute";q=6;w=60')
                left.append(headers["ratelimit"])
            assert [int(re.search(r"r=(\d)", each)[1]) for each in left] == [5, 4, 3, 2, 1, 0]  # type: ignore[index]
            assert answers == [True] * 5
            connection.sendall(request(JSON))
            status, headers, body = answer(connection)
        assert (status, body["code"]) == (429, "rate_limited")
        assert 1 <= int(headers["retry-after"]) <= 10
        assert headers["ratelimit"].startswith('"minute";r=0;t=')
        assert live.http.get("/v1/jobs").status_code == 429
        assert live.http.get("/livez").status_code == 200


def test_each_key_has_a_rate_of_its_own_and_guessing_has_one(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with locked(settings_for(tmp_path, auth="on", requests_per_minute=3)) as (live, admin):
        fast = made(live.db, "read", limits=Limits(requests_per_minute=100))
        statuses = [live.http.get("/v1/jobs", headers=bearer(Secret.new())).status_code for _ in range(4)]
        assert statuses == [401, 401, 401, 429]
        assert [live.http.get("/v1/jobs", headers=bearer(admin)).status_code for _ in range(4)] == [
            200
        ] * 3 + [429]
        assert {live.http.get("/v1/jobs", headers=bearer(fast)).status_code for _ in range(9)} == {200}


def test_names_of_others_are_refused(live: Live) -> None:
    model = live.model(7)
    classifier = live.server.application.state.context.classifier
    eventually(lambda: (found := classifier.at_hand("latest")) and found.model.id == model.id)
    for path in ("/v1/jobs", "/", "/openapi.json"):
        refused = live.http.get(path, headers={"Host": "evil.example"})
        assert (refused.status_code, refused.json()["code"]) == (421, "untrusted_host")
        assert "NUMERAL_TRUSTED_HOSTS" in refused.json()["detail"]
    refused = live.http.post("/v1/predict", content=JSON, headers={"Host": "evil.example"})
    assert refused.status_code == 421
    for host in ("localhost:1", "127.0.0.1", "[::1]:99"):
        assert live.http.post("/v1/predict", content=JSON, headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_change_nothing_and_read_nothing(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    with serving(settings_for(tmp_path, cors_origins=("https://lab.example",))) as live:
        live.model(7)
        before = live.trace()
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
            refused = live.http.post("/v1/aliases/champion/rollback", headers={"Origin": origin})
            assert (refused.status_code, refused.json()["code"]) == (403, "untrusted_origin")
            assert "NUMERAL_CORS_ORIGINS" in refused.json()["detail"]
            told = live.http.get("/v1/jobs", headers={"Origin": origin})
            assert "access-control-allow-origin" not in told.headers
        assert live.trace() == before
        own = {"Origin": live.url}
        assert live.http.post("/v1/predict", content=JSON, headers=own).status_code == 200
        trusted = {"Origin": "https://lab.example"}
        for told in (
            live.http.post("/v1/predict", content=JSON, headers=trusted),
            live.http.get("/v1/jobs/none", headers=trusted),
        ):
            assert told.headers["access-control-allow-origin"] == "https://lab.example"
            assert "X-Request-ID" in told.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in told.headers
        asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}
        preflight = live.http.options("/v1/aliases/champion", headers=trusted | asked)
        assert preflight.status_code == 200
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        assert (
            live.http.options("/v1/jobs", headers={"Origin": "https://evil.example"} | asked).status_code
            == 400
        )


def test_every_answer_has_the_security_headers(live: Live) -> None:
    job_id = live.submit()
    for method, path in (
        *(("GET", path) for path in ("/", "/livez", "/openapi.json", "/v1/jobs", "/v1/nothing", "/v2")),
        *(("GET", path) for path in (f"/v1/jobs/{job_id}/plots/loss.png", f"/v1/jobs/{job_id}/events")),
        *(("POST", path) for path in ("/v1/predict", "/v1/jobs", "/livez", "/v2/models/x/infer")),
    ):
        found = live.http.request(method, path)
        assert SECURITY.items() <= found.headers.items(), (method, path)
        assert "server" not in found.headers
    with connected(live) as connection:
        connection.sendall(b"this is no HTTP\r\n\r\n")
        told = connection.recv(4096).decode().lower()
    assert told.startswith("http/1.1 400 ")
    for name, value in SECURITY.items():
        assert f"{name}: {value}" in told


def test_a_picture_may_have_styles_of_its_own(live: Live) -> None:
    picture = live.http.get("/v1/datasets/simulated/samples.svg")
    assert picture.status_code == 200
    assert picture.headers["content-security-policy"].startswith(
        "default-src 'none'; style-src 'unsafe-inline'"
    )


def test_keys_are_in_no_log(
    guarded: tuple[Live, Mapping[Scope, Secret]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live, holders = guarded
    monkeypatch.setattr(keys, "page", lambda *_args, **_options: 1 / 0)
    with caplog.at_level(logging.DEBUG):
        failed = live.http.get("/v1/keys", headers=bearer(holders["admin"]))
        live.http.get("/v1/jobs", headers=bearer(Secret.new().text + "!"))
    assert failed.status_code == 500
    assert "ZeroDivisionError" in caplog.text
    assert holders["admin"].text not in caplog.text + failed.text
    assert "_" + holders["admin"].text[13:] not in caplog.text


def test_a_page_is_open_and_keeps_a_key_in_a_cookie(
    guarded: tuple[Live, Mapping[Scope, Secret]],
) -> None:
    live, secrets = guarded
    with httpx.Client(base_url=live.url, timeout=20) as http:
        page = http.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert all(
            http.get(found).status_code == 200 for found in re.findall(r'"(/static/[^"]+)"', page.text)
        )
        assert http.get("/").status_code == 401
        assert http.post("/v1/session").status_code == 401
        assert http.post("/v1/session", headers=bearer(Secret.new())).status_code == 401
        begun = http.post("/v1/session", headers=bearer(secrets["read"]))
        assert begun.status_code == 204
        kept = begun.headers["set-cookie"]
        assert "HttpOnly" in kept
        assert "SameSite=strict" in kept
        assert http.get("/v1/jobs").status_code == 200
        assert http.post("/v1/session").json()["code"] == "missing_api_key"
        assert http.post("/v1/jobs", json={}).json()["code"] == "insufficient_scope"
        http.cookies.clear()
        http.post("/v1/session", headers=bearer(secrets["predict"]))
        assert http.post("/v1/predict", content=JSON).status_code == 200
        foreign = http.post("/v1/predict", content=JSON, headers={"Origin": "https://elsewhere.example"})
        assert foreign.json()["code"] == "untrusted_origin"
        assert http.delete("/v1/session").status_code == 204
        assert http.post("/v1/predict", content=JSON).status_code == 401


def test_without_keys_there_is_no_session(shared: Live) -> None:
    for answer_ in (shared.http.post("/v1/session"), shared.http.delete("/v1/session")):
        assert (answer_.status_code, answer_.json()["code"]) == (409, "auth_off")
