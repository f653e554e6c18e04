"""Requests that nobody thought of: schemathesis makes them of what `/openapi.json` says, sends them and holds each answer
against it. It checks all that it can but two things: that whatever the description allows is accepted, for it does not
tell which values go together, and that what was made is there afterwards, for the next request may have deleted it."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.engine import events
from schemathesis.engine.recorder import CheckNode, ScenarioRecorder

PHASES = ("examples", "coverage", "fuzzing", "stateful")
NOT_CHECKED = ("positive_data_acceptance", "ensure_resource_availability")
LINES = "application/x-ndjson"
TIMEOUT_SECONDS = 30


@schemathesis.serializer(LINES, "application/zip")
def _as_lines(_context: object, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@dataclass
class Findings:
    """What was asked, how it was answered, and what was wrong with that."""

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))  # by operation
    wrong: dict[str, str] = field(default_factory=dict)  # and a command that shows it

    @property
    def requests(self) -> int:
        return sum(count.total() for count in self.statuses.values())

    def take(self, event: events.EngineEvent) -> None:
        if isinstance(event, events.ScenarioFinished):
            self._answered(event.recorder)
            self._checked(event.recorder)
        elif isinstance(event, events.NonFatalError):
            self.wrong.setdefault(f"{event.label}: {event.value!r}", "")
        elif isinstance(event, events.FatalError):
            raise event.exception

    def _answered(self, recorder: ScenarioRecorder) -> None:
        for case_id, interaction in recorder.interactions.items():
            operation, answer = recorder.cases[case_id].value.operation.label, interaction.response
            self.statuses[operation][answer.status_code if answer is not None else 0] += 1
            if answer is None:
                self.wrong.setdefault(f"{operation}: no answer", interaction.request.uri)
            elif answer.status_code == 503 and not _tells_a_state(operation, answer.content):
                self.wrong.setdefault(f"{operation}: 503 {answer.content[:300]!r}", interaction.request.uri)

    def _checked(self, recorder: ScenarioRecorder) -> None:
        failed = (check for checks in recorder.checks.values() for check in checks if check.failure_info)
        for check in failed:
            self._failed(recorder.label, check)

    def _failed(self, label: str, check: CheckNode) -> None:
        assert check.failure_info is not None
        found = check.failure_info.failure
        self.wrong.setdefault(
            f"{found.operation or label}: {check.name}: {found.title}",
            f"{found.message}\n{check.failure_info.code_sample}",
        )


def _tells_a_state(operation: str, answer: bytes) -> bool:
    """Whether a 503 tells of the thing that was asked for, a model that is not in memory or a dataset that is not on
    this machine, and not of the service."""
    return operation.endswith("/ready") or json.loads(answer)["code"] == "dataset_unavailable"


def fuzz(
    url: str,
    findings: Findings,
    *,
    seed: int,
    examples: int,
    phases: Collection[str] = PHASES,
    key: str | None = None,
    paths: str = "",
) -> None:
    """Ask an API whatever may be asked, with so many examples of each operation; with a key if one is given, which is
    not revoked; of those paths alone that match a pattern."""
    config = _config(seed, examples, phases, key)
    whole = schemathesis.openapi.from_url(
        f"{url}/openapi.json", config=config, headers=_headers(key), timeout=60
    )
    schema = whole.include(path_regex=paths)

    @schema.hook
    def filter_case(_context: object, case: schemathesis.Case[Any]) -> bool:
        return key is None or not key.startswith(str(case.path_parameters.get("key_id")))

    @schema.hook
    def filter_failure(
        _context: object, failure: Failure, case: schemathesis.Case[Any], _answer: object
    ) -> bool:
        is_text_anyhow = case.media_type == LINES and "in body" in failure.message  # whatever it was made of
        is_left_out = "in query" in failure.message and "`anyOf`" in failure.message  # a null is not sent
        return not ((is_text_anyhow or is_left_out) and "negative_data_rejection" in failure.checks)

    for event in engine.from_schema(schema).execute():
        findings.take(event)


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def _config(seed: int, examples: int, phases: Collection[str], key: str | None) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "suppress-health-check": ["all"],
            "headers": _headers(key),
            "continue-on-failure": True,
            "request-timeout": TIMEOUT_SECONDS,
            "generation": {"max-examples": examples, "no-shrink": True, "database": "none"},
            "phases": {name: {"enabled": name in phases} for name in PHASES},
            "checks": {name: {"enabled": False} for name in NOT_CHECKED}
            | {
                "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503"]}
            },  # see `_tells_a_state`
        }
    )
