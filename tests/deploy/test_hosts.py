"""Several API containers and workers, on PostgreSQL and Redis: a rolling restart of all of them, and a second host."""

import json
import subprocess
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from sqlalchemy import make_url

from bench.load import PREDICTIONS, load
from service.client import Client
from service.store import jobs
from service.store.database import Database
from tests.acceptance.conftest import until
from tests.deploy.deployment import BRIEF, START_SECONDS, Deployment, placed, require_redis
from tests.deploy.files import composed
from tests.deploy.front import Front, front
from tests.faults.servers import Cluster, postgres, redis_server

pytestmark = pytest.mark.timeout(480)  # where others use the machine too


LONG = {**BRIEF, "epochs": 100}
SECRET = "s3cret/word@"  # noqa: S105
HERE, THERE = "10.203.7.1", "10.203.7.2"


@dataclass
class Scaled:
    """The services on PostgreSQL, which wants a password, and a front before the API's containers."""

    deployment: Deployment
    cluster: Cluster
    redis_port: int
    front: Front
    password: Path

    @property
    def key(self) -> str:
        return (self.deployment.home / "admin.key").read_text().strip()

    def client(self) -> Client:
        return Client(self.front.url, api_key=self.key, patience=30)

    def workers(self) -> dict[str, str]:
        """Those alive, by name, and what queues they serve."""
        with self.client() as client:
            return {worker.name: ",".join(worker.queues) for worker in client.workers()}


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory, namespace: str | None) -> Iterator[Scaled]:
    require_redis()
    folder = tmp_path_factory.mktemp("scaled")
    addresses = "127.0.0.1" if namespace is None else f"127.0.0.1,{HERE}"
    with (
        postgres(f"listen_addresses={addresses}") as cluster,
        redis_server(folder) as server,
        front() as before,
    ):
        password = secured(cluster)
        if namespace is not None:
            reachable(server.port)
        composed_ = composed(
            POSTGRES_PASSWORD_FILE=str(password),
            NUMERAL_DATABASE_URL="postgresql+psycopg://postgres@postgres/postgres",
            NUMERAL_AUTH="on",
        )
        hosts = {"redis:6379": f"127.0.0.1:{server.port}", "@postgres/": f"@127.0.0.1:{cluster.port}/"}
        with placed(composed_, hosts) as deployment:
            deployment.start_in_order("redis", "batch-worker")
            before.backends = (deployment.ports["api"],)
            yield Scaled(deployment, cluster, server.port, before, password)


def secured(cluster: Cluster) -> Path:
    """From now on the cluster asks for a password, which is in a file."""
    with cluster.connect() as connection:
        connection.execute(f"ALTER ROLE postgres PASSWORD '{SECRET}'")
        rules = cluster.folder / "data" / "pg_hba.conf"
        rules.write_text("host all all 0.0.0.0/0 scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")
    password = cluster.folder / "password"
    password.write_text(SECRET + "\n")
    password.chmod(0o444)
    cluster.folder.chmod(0o755)
    return password


def reachable(port: int) -> None:
    """Redis listens on the wire to the second host too."""
    with redis.Redis(port=port) as client:
        until(lambda: answers(client), "Redis answers", 20)
        client.config_set("protected-mode", "no")
        client.config_set("bind", f"127.0.0.1 {HERE}")


def answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_a_rolling_restart_fails_no_request_and_disturbs_no_job(scaled: Scaled) -> None:
    """Under everything at once that `bench.load` asks for: predictions, submits, pages, followers of events."""
    deployment, before = scaled.deployment, scaled.front
    with scaled.client() as client, ThreadPoolExecutor() as pool:
        undisturbed = client.jobs.wait(client.jobs.create(LONG).id)
        assert (undisturbed.state, undisturbed.attempt) == ("succeeded", 1)
        over = threading.Event()
        loading = pool.submit(load, before.url, over, follow=[undisturbed.id], followers=2, key=scaled.key)
        try:
            deployment.start("worker-2")  # the new one of each first, then the old one goes
            deployment.start("api-2")
            deployment.await_healthy("api-2")
            # its own check would see the first one too, which has a host of its own elsewhere
            until(lambda: len(scaled.workers()) == 2, "there are two workers", START_SECONDS)
            disturbed = client.jobs.create(LONG, priority=0)  # before all those that the load submits
            until(lambda: (client.jobs.get(disturbed.id).progress.step or 0) > 100, "it trains", 60)
            assert deployment.stop(holder(scaled, disturbed.id)) == 0
            before.backends = (deployment.ports["api-2"],)
            assert deployment.stop("api") == 0, deployment.said("api")
            ended = client.jobs.wait(disturbed.id)
        finally:
            over.set()
        taken = loading.result()
        assert not taken.failures
        assert all(len(taken.milliseconds[kind]) > 20 for kind in (*PREDICTIONS, "page"))
        assert taken.milliseconds["submit"]
        assert (ended.state, ended.attempt) == ("succeeded", 2)
        assert ended.weights_sha256 == undisturbed.weights_sha256
        submitted = [client.jobs.wait(job.id) for job in client.jobs.list()]
        assert {job.state for job in submitted} == {"succeeded"}
        hashes = {(str(job.spec), job.weights_sha256) for job in submitted}
        assert len(hashes) == len({spec for spec, _ in hashes}), "one spec, one outcome"
        assert len(scaled.workers()) == 1


def holder(scaled: Scaled, job_id: str) -> str:
    """Which container trains it."""
    url = make_url(scaled.cluster.url).set(password=SECRET)
    db = Database(url.render_as_string(hide_password=False))
    worker = str(jobs.get(db, job_id).worker)
    db.close()
    processes = scaled.deployment.processes
    return next(name for name in ("worker", "worker-2") if processes[name].pid == int(worker.split(":")[-2]))


@pytest.fixture(scope="module")
def namespace() -> Iterator[str | None]:
    """A network namespace with a wire to ours; None where none may be made."""
    name = f"numeral{uuid.uuid4().hex[:6]}"
    wire = (f"n{name[7:]}a", f"n{name[7:]}b")
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        ip("link", "add", wire[0], "type", "veth", "peer", "name", wire[1], "netns", name)
        ip("addr", "add", f"{HERE}/30", "dev", wire[0])
        ip("link", "set", wire[0], "up")
        ip("-n", name, "addr", "add", f"{THERE}/30", "dev", wire[1])
        ip("-n", name, "link", "set", wire[1], "up")
        yield name
    finally:
        ip("netns", "del", name)


@pytest.fixture
def second_host(namespace: str | None, tmp_path: Path) -> list[str]:
    """A command that becomes a process of another host: another network, another name, another kernel as it says."""
    if namespace is None:
        pytest.skip("network namespaces are Linux's, and root's to make")
    boot = tmp_path / "boot_id"
    boot.write_text(f"{uuid.uuid4()}\n")
    become = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && hostname second-host && exec "$@"'
    return ["ip", "netns", "exec", namespace, "unshare", "--mount", "--uts", "sh", "-c", become, str(boot)]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def test_a_worker_of_a_second_host_trains_for_the_first(scaled: Scaled, second_host: list[str]) -> None:
    told = composed(
        "deploy/workers.yml",
        POSTGRES_PASSWORD_FILE=str(scaled.password),
        NUMERAL_DATABASE_URL=f"postgresql+psycopg://postgres@{HERE}:{scaled.cluster.port}/postgres",
        NUMERAL_BROKER_URL=f"redis://{HERE}:{scaled.redis_port}/0",
    )
    for name, process in scaled.deployment.processes.items():
        if name.startswith("worker") and process.poll() is None:
            assert scaled.deployment.stop(name) == 0
    with placed(told, {}, second_host) as deployment, scaled.client() as client:
        deployment.start("worker")
        deployment.await_healthy("worker")
        job = client.jobs.wait(client.jobs.create(BRIEF).id)
        assert (job.state, job.attempt) == ("succeeded", 1)
        assert [name.partition(":")[0] for name in scaled.workers()] == ["second-host"]
        said = client.call("POST", f"/v1/models/{job.model_id}/predict", json={"images": [[0] * 784]})
        assert said["model"] == job.model_id, "the first host serves what the second has trained"
        assert deployment.stop("worker") == 0, deployment.said("worker")


def test_sqlite_is_refused_to_a_second_host(second_host: list[str]) -> None:
    """Its processes see the very same folder, as they would on a network's file system."""
    with placed(composed(), {"redis:6379": "127.0.0.1:1"}) as deployment:
        deployment.start("migrate")
        assert deployment.await_end("migrate", START_SECONDS) == 0, deployment.said("migrate")
        deployment.start("batch-worker")
        until((deployment.home / "numeral.db.host").exists, "the first host claims it", 60)
        other = Deployment(deployment.composed, deployment.folder, deployment.hosts, second_host)
        for name in ("api", "worker", "batch-worker-2", "migrate"):
            other.start(name)
            assert other.await_end(name, START_SECONDS) == 1
            assert "SQLite cannot be shared between hosts" in " ".join(other.said(name).split())
        claimed = json.loads((deployment.home / "numeral.db.host").read_text())
        assert claimed["host"] != "second-host"
