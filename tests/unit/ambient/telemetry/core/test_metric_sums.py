"""Several processes' metrics as one."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ambient.telemetry.core.metric_sums import add_up


def exposition(scale):
    """One worker's metrics, as it exposes them."""
    registry = CollectorRegistry()
    bytes_sent = Counter("sent_bytes", "Bytes.", ["pod"], registry=registry)
    bytes_sent.labels("shared").inc(10 * scale)
    bytes_sent.labels(f"only-{scale}").inc(scale)
    Gauge("istio_build", "The build.", ["tag"], registry=registry).labels("1").set(1)
    Gauge("process_start_time_seconds", "Start.", registry=registry).set(100 * scale)
    Histogram("latency", "Seconds.", buckets=[1], registry=registry).observe(scale)
    return generate_latest(registry).decode()


def values(families):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_counters_add_up_label_by_label_and_facts_about_processes_do_not():
    merged = values(add_up([exposition(1), exposition(2)]))
    assert merged["sent_bytes_total", "shared"] == 30
    assert merged["sent_bytes_total", "only-1"] == 1
    assert merged["sent_bytes_total", "only-2"] == 2
    assert merged["istio_build", "1"] == 1
    assert merged["process_start_time_seconds",] == 100
    assert merged["latency_bucket", "1.0"] == 1
    assert merged["latency_bucket", "+Inf"] == merged["latency_count",] == 2
    assert merged["latency_sum",] == 3


def test_one_worker_alone_is_left_as_it_is():
    text = exposition(3)
    families = {family.name: family.type for family in add_up([text])}
    assert families["sent_bytes"] == "counter"
    assert families["latency"] == "histogram"
    assert values(add_up([text])) == values(add_up([text, ""]))
    assert add_up([]) == []
