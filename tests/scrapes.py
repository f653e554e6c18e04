"""What a scrape of a server says."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]


def scraped(http: httpx.Client) -> Samples:
    """Every sample of `/metrics`."""
    answer = http.get("/metrics")
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, /, **labels: str) -> float:
    """Of one sample; 0 if it is not there."""
    return samples.get((name, frozenset(labels.items())), 0.0)
