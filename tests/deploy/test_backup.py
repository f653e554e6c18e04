"""A backup that is taken while jobs train and a batch is read, restored in another home by the commands themselves."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.client import Client
from service.running import backup
from service.settings import Settings
from tests.acceptance.conftest import running, until
from tests.conftest import mnist_folder
from tests.deploy.deployment import BRIEF

pytestmark = pytest.mark.timeout(480)  # where others use the machine too


IMAGES = 5_000
LONGER = {**BRIEF, "epochs": 60}


def mnist_images() -> bytes:
    """The first of MNIST's test images, 784 bytes each, as IDX has them after its header."""
    import gzip

    found = next(iter(sorted(mnist_folder().rglob("t10k-images*"))))
    data = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
    return data[16:]


def numeral(home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    ran = subprocess.run(
        [sys.executable, "-m", "service.cli", *words],
        env={
            "NUMERAL_HOME": str(home),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran


def answers(url: str, model: str, images: bytes) -> bytes:
    """What the model says of the images, byte for byte."""
    answered = httpx.post(
        f"{url}/v1/models/{model}/predict?exact=true",
        content=images,
        headers={"Content-Type": "application/octet-stream"},
        timeout=60,
    )
    assert answered.status_code == 200, answered.text
    return answered.content


def test_what_is_restored_predicts_the_same_and_trains_on(tmp_path: Path) -> None:
    images = mnist_images()
    with running(tmp_path / "here") as service:
        client = service.client
        first = client.jobs.wait(client.jobs.create(BRIEF).id)
        assert first.model_id is not None
        said = answers(service.url, first.model_id, images[: 200 * 784])
        batch = client.batches.create(
            images[: IMAGES * 784], preprocess="mnist", media_type="application/octet-stream"
        )
        job = service.start(LONGER, at_step=100)
        assert not client.jobs.get(job.id).ended
        made = backup.backup(
            Settings(home=tmp_path / "here"), tmp_path / "copy"
        )  # at once, as a command is not
        assert made.rows["model"] == 1
        assert not client.jobs.get(job.id).ended, "it was taken while the job ran"
        undisturbed = client.jobs.wait(job.id)
        done = client.batches.wait(batch.id)
        answered = list(client.batches.results(done.id))

    numeral(tmp_path / "there", "restore", str(tmp_path / "copy"))
    with running(tmp_path / "there", NUMERAL_LEASE_SECONDS="4", NUMERAL_RECONCILE_SECONDS="0.5") as service:
        assert answers(service.url, first.model_id, images[: 200 * 784]) == said
        with Client(service.url, patience=30) as client:
            until(lambda: client.jobs.get(job.id).ended, "the job of the backup ends", 120)
            again = client.jobs.get(job.id)
            assert (again.state, again.weights_sha256) == ("succeeded", undisturbed.weights_sha256)
            assert client.batches.wait(batch.id).state == "succeeded"
            assert list(client.batches.results(batch.id)) == answered
