"""The manifests against Kubernetes' own schemas, which the package carries, and against the code. KEDA's and
kustomize's kinds have none there: of them what they name is looked up, and KEDA's query is asked of a real database."""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import ValidationError
from sqlalchemy import text, update

from service import settings
from service.spec import TrainingSpec
from service.store import jobs, schema
from service.store.database import Database
from service.store.tables import job
from tests.deploy.files import ROOT, STAGES, image_of

FOLDER = ROOT / "deploy" / "kubernetes"
KNOWN_SETTINGS = {settings.PREFIX + name.upper() for name in settings.Settings.model_fields}
VERSION = "1.35"
FOREIGN = {"ScaledObject", "TriggerAuthentication", "Kustomization"}


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted(FOLDER.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


EVERY = list(manifests())
NAMED = {(item["kind"], item.get("metadata", {}).get("name")): item for item in EVERY}
PODS = [item for item in EVERY if item["kind"] in ("Deployment", "Job")]
by_name = pytest.mark.parametrize("item", PODS, ids=lambda item: item["metadata"]["name"])


@pytest.mark.parametrize(
    "item",
    [item for item in EVERY if item["kind"] not in FOREIGN],
    ids=lambda item: f"{item['kind']}-{item['metadata']['name']}",
)
def test_it_is_what_kubernetes_takes(item: dict[str, Any]) -> None:
    kubernetes_validate.validate(item, VERSION, strict=True)


def test_a_mistake_would_be_found() -> None:
    item = NAMED["Deployment", "numeral-api"]
    wrong = item | {"spec": item["spec"] | {"replica": 2}}
    with pytest.raises(ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_kustomize_has_every_file() -> None:
    listed = NAMED["Kustomization", None]["resources"]
    assert sorted(listed) == sorted(
        path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml"
    )


@by_name
def test_pods_run_our_images_as_they_are(item: dict[str, Any]) -> None:
    pod = item["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    image = image_of(STAGES, container["image"].removeprefix("numeral-"))
    assert "command" not in container, "the image's entrypoint takes the words"
    assert container["args"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == image.user
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {image.environment["NUMERAL_HOME"], "/tmp"} <= mounted  # noqa: S108 - of the pod


@by_name
def test_environments_are_settings(
    item: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (container,) = item["spec"]["template"]["spec"]["containers"]
    environment = dict(NAMED["ConfigMap", "numeral"]["data"])
    environment |= {entry["name"]: entry["value"] for entry in container.get("env", [])}
    assert set(environment) <= KNOWN_SETTINGS
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    for name, value in (environment | {"NUMERAL_DATABASE_PASSWORD_FILE": str(secret)}).items():
        monkeypatch.setenv(name, value)
    assert settings.load().database == "postgresql+psycopg://numeral:s3cret@postgres/numeral"


def test_what_selects_finds() -> None:
    labels = [item["spec"]["template"]["metadata"]["labels"] for item in PODS]
    for item in EVERY:
        spec = item.get("spec", {})
        selectors = [spec.get("podSelector"), spec.get("selector") if item["kind"] != "Service" else None]
        wanted = [found["matchLabels"] for found in selectors if found]
        wanted += [spec["selector"]] if item["kind"] == "Service" else []
        for want in wanted:
            assert any(want.items() <= found.items() for found in labels), item["metadata"]


def test_a_rolling_update_takes_nothing_away_first() -> None:
    for kind, name in NAMED:
        if kind == "Deployment":
            strategy = NAMED[kind, name]["spec"]["strategy"]["rollingUpdate"]
            assert strategy == {"maxUnavailable": 0, "maxSurge": 1}
    assert NAMED["Deployment", "numeral-api"]["spec"]["replicas"] >= 2
    assert (
        NAMED["Deployment", "numeral-worker"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        > 30
    )


def test_the_scaler_counts_what_waits_and_what_runs(postgres_url: str) -> None:
    scaled = NAMED["ScaledObject", "numeral-worker"]["spec"]
    assert ("Deployment", scaled["scaleTargetRef"]["name"]) in NAMED
    assert "replicas" not in NAMED["Deployment", "numeral-worker"]["spec"], (
        "which would fight with it at each apply"
    )
    (trigger,) = scaled["triggers"]
    assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in NAMED
    db = Database(postgres_url)
    schema.migrate(db)
    states = ("queued", "running", "pausing", "cancelling", "paused", "succeeded", "failed", "cancelled")
    for state in states:
        answer, _ = jobs.submit(db, TrainingSpec(), answer=lambda made: {"id": made.id}, queue="cpu")
        with db.write() as connection:
            connection.execute(update(job).where(job.c.id == answer["id"]).values(state=state))
    with db.read() as connection:
        assert connection.execute(text(trigger["metadata"]["query"])).scalar_one() == 4
    db.close()
