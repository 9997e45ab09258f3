"""Expositions of many replicas in one text, and counters that are kept in a dictionary."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from app.serving.observability.exposition import ProcessRegistry, Tally, merge


def test_every_sample_has_the_labels_of_its_replica():
    process = ProcessRegistry("ingress")
    Counter("plain_total", "x", registry=process.registry).inc()
    Counter("odd_total", "x", ("name",), registry=process.registry).labels('a"} 9\n,b').inc(2)
    Histogram("long_seconds", "x", registry=process.registry, buckets=(1,)).observe(0.5)
    found = [
        sample
        for family in text_string_to_metric_families(process.exposition().decode())
        for sample in family.samples
    ]
    assert {sample.name for sample in found} == {
        *("plain_total", "odd_total"),
        *("long_seconds_bucket", "long_seconds_count", "long_seconds_sum"),
    }
    for sample in found:
        assert sample.labels["process"] == "ingress"
        assert sample.labels["replica"] == process.replica_name
    (odd,) = [sample for sample in found if sample.name == "odd_total"]
    assert (odd.labels["name"], odd.value) == ('a"} 9\n,b', 2.0)


def test_merged_text_has_each_family_once_with_the_samples_of_all():
    replicas = [ProcessRegistry("model"), ProcessRegistry("builder")]
    for number, each in enumerate(replicas, 1):
        Counter("shared_total", "what both have", registry=each.registry).inc(number)
        Counter(f"own{number}_total", "what one has", registry=each.registry).inc()
    text = merge([*(each.exposition() for each in replicas), b""]).decode()
    assert text.count("# TYPE shared_total counter") == 1
    assert text.endswith("\n")
    values = {
        (sample.name, sample.labels["process"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values == {
        ("shared_total", "model"): 1.0,
        ("shared_total", "builder"): 2.0,
        ("own1_total", "model"): 1.0,
        ("own2_total", "builder"): 1.0,
    }


def test_gauges_are_set_before_a_scrape():
    process = ProcessRegistry("feed")
    counter = Counter("scrapes_total", "x", registry=process.registry)
    process.before_scrape(counter.inc)
    assert "} 1.0" in process.exposition().decode()
    assert "} 2.0" in process.text().text.decode()


def test_tally_is_exposed_as_a_counter_is():
    texts = []
    for kind in ("tally", "counter"):
        process = ProcessRegistry("x")
        process.replica_name = "r"
        if kind == "tally":
            tally = Tally("seen_total", "what", ("one", "two"), process.registry)
            tally.counts["a", "b"] += 2
        else:
            counter = Counter("seen_total", "what", ("one", "two"), registry=process.registry)
            counter.labels("a", "b").inc(2)
        texts.append(process.exposition())
    assert texts[0] == texts[1]


def test_name_that_is_taken_is_refused():
    registry = CollectorRegistry()
    Tally("seen_total", "what", (), registry)
    with pytest.raises(ValueError, match="seen"):
        Counter("seen_total", "what", registry=registry)
