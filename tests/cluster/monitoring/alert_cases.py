"""Series with which each alert fires, and series just on the other side of its threshold.

Values are in the notation of `promtool test rules`, one a minute: `0+5x30` begins at 0 and grows by
5 a minute for 30 minutes, `7x30` stays at 7.
"""

from collections.abc import Mapping
from typing import NamedTuple

Series = Mapping[str, str]


class Case(NamedTuple):
    """One alert.

    Args:
        alert: its name.
        fires: series with which it fires.
        silent: further sets of series with which it does not, the first just beyond the threshold.
        labels: of the alert that fires, without its severity.
        onset_m: minutes until its expression first holds; a rate needs two samples.
    """

    alert: str
    fires: Series
    silent: tuple[Series, ...]
    labels: Mapping[str, str] = {}
    onset_m: int = 0


def _requests(bad: int, of: int, route: str = "/v1/diagnoses", minutes: int = 400) -> Series:
    name = "hydraulic_http_requests_total"
    return {
        f'{name}{{route="{route}",status="200"}}': f"0+{of - bad}x{minutes}",
        f'{name}{{route="{route}",status="503"}}': f"0+{bad}x{minutes}",
    }


def _latency(slow: int, of: int) -> Series:
    name, route = "hydraulic_http_request_seconds", 'route="/v1/diagnoses"'
    return {
        f'{name}_bucket{{{route},le="0.5"}}': f"0+{of - slow}x400",
        f'{name}_bucket{{{route},le="0.2"}}': "0+1x400",
        f'{name}_bucket{{{route},le="+Inf"}}': f"0+{of}x400",
        f"{name}_count{{{route}}}": f"0+{of}x400",
    }


def _burn(**rates: float) -> Series:
    """Return burn rates by window; `_5m=7` is 7 over five minutes."""
    return {
        f'hydraulic:slo_burn:rate{window[1:]}{{slo="ingest_errors"}}': f"{rate:g}x60"
        for window, rate in rates.items()
    }


def _histogram(name: str, labels: str, slow: int, of: int, low: str, high: str) -> Series:
    """Return a histogram of which `slow` of `of` values lie between two bounds."""
    between = f"{labels}," if labels else ""
    return {
        f'{name}_bucket{{{between}le="{low}"}}': f"0+{of - slow}x60",
        f'{name}_bucket{{{between}le="{high}"}}': f"0+{of}x60",
        f'{name}_bucket{{{between}le="+Inf"}}': f"0+{of}x60",
    }


def _ratio(part: str, whole: str, bad: int, of: int) -> Series:
    return {part: f"0+{bad}x90", whole: f"0+{of}x90"}


def _replicas(running: int, scraped: int) -> Series:
    labels = 'application="model-1",deployment="Model"'
    return {
        f'hydraulic_deployment_replicas{{{labels},state="running"}}': f"{running}x20",
        f'hydraulic_deployment_replicas{{{labels},state="starting"}}': "1x20",
        f"hydraulic_deployment_scraped_replicas{{{labels}}}": f"{scraped}x20",
    }


def _versions(first: int, second: int) -> Series:
    return {
        'hydraulic_version_up{version="1"}': f"{first}x20",
        'hydraulic_version_up{version="2"}': f"{second}x20",
    }


def _ages(fresh: int, late: int) -> Series:
    name = "hydraulic_fleet_machines"
    return {
        f'{name}{{readings="fresh"}}': f"{fresh}x60",
        f'{name}{{readings="late"}}': f"{late}x60",
        f'{name}{{readings="silent"}}': "900x60",
    }


_CALLS = "hydraulic_version_calls_total"
_DIAGNOSES = "hydraulic_diagnoses_total"
_READINGS = "hydraulic_readings_total"
_BUILDERS_DOWN = {'hydraulic_dependency_up{dependency="builders"}': "0x400"}
_WRITTEN = 'hydraulic_feed_last_write_timestamp_seconds{process="feed",replica="a"}'
_POOL = "hydraulic_database_pool"
_TRAINING, _OF_TRAINING = "hydraulic_training", 'process="training",replica="a"'

CASES = (
    # a loss that has just begun, and one that has ended, page no one: both windows count
    Case(
        "ErrorBudgetBurnFast",
        _burn(_1h=15, _5m=15),
        (_burn(_1h=14, _5m=99), _burn(_1h=99, _5m=14), _burn(_1h=15, _5m=15) | _BUILDERS_DOWN),
        {"slo": "ingest_errors"},
    ),
    Case(
        "ErrorBudgetBurnSlow",
        _burn(_6h=6.5, _30m=6.5),
        (_burn(_6h=5.5, _30m=99), _burn(_6h=99, _30m=5.5), _burn(_6h=7, _30m=7) | _BUILDERS_DOWN),
        {"slo": "ingest_errors"},
    ),
    Case(
        "ErrorBudgetBurnTicket",
        _burn(_1d=3.4, _2h=3.4, _3d=0.5, _6h=0.5),
        (_burn(_1d=2.6, _2h=99, _3d=0.9, _6h=99), _burn(_1d=99, _2h=2.6, _3d=99, _6h=0.9)),
        {"slo": "ingest_errors"},
    ),
    Case(
        "ErrorBudgetBurnTicket",
        _burn(_1d=0.5, _2h=0.5, _3d=1.1, _6h=1.1),
        (),
        {"slo": "ingest_errors"},
    ),
    Case(
        "ServiceDown",
        {'up{job="hydraulic",instance="a:8000"}': "0x20"},
        ({'up{job="hydraulic",instance="a:8000"}': "1x20"},),
        {"job": "hydraulic", "instance": "a:8000"},
    ),
    Case(
        "ServiceDown",
        {'up{job="other",instance="a:9"}': "0x20"},
        (
            {
                'up{job="hydraulic",instance="a:8000"}': "1x20",
                'up{job="other",instance="a:9"}': "0x20",
            },
        ),
        {"job": "hydraulic"},
    ),
    Case(
        "DatabaseUnavailable",
        {'hydraulic_dependency_up{dependency="database"}': "0x20"},
        (
            {
                'hydraulic_dependency_up{dependency="database"}': "1x20",
                'hydraulic_dependency_up{dependency="builders"}': "0x20",
            },
        ),
        {"dependency": "database"},
    ),
    Case(
        "GraphBuildersUnavailable",
        {'hydraulic_dependency_up{dependency="builders"}': "0x20"},
        (
            {
                'hydraulic_dependency_up{dependency="builders"}': "1x20",
                'hydraulic_dependency_up{dependency="database"}': "0x20",
            },
        ),
        {"dependency": "builders"},
    ),
    Case("NoVersionAvailable", _versions(0, 0), (_versions(0, 1),)),
    Case(
        "VersionUnavailable", _versions(0, 1), (_versions(1, 1), _versions(0, 0)), {"version": "1"}
    ),
    Case(
        "VersionFailing",
        {
            f'{_CALLS}{{version="1",outcome="failed"}}': "0+55x30",
            f'{_CALLS}{{version="1",outcome="answered"}}': "0+945x30",
        },
        (
            {
                f'{_CALLS}{{version="1",outcome="failed"}}': "0+45x30",
                f'{_CALLS}{{version="1",outcome="answered"}}': "0+955x30",
            },
        ),
        {"version": "1"},
        1,
    ),
    Case(
        "VersionCircuitOpen",
        {
            'hydraulic_version_circuit_open{version="1",replica="a"}': "1x20",
            'hydraulic_version_circuit_open{version="1",replica="b"}': "0x20",
        },
        ({'hydraulic_version_circuit_open{version="1",replica="a"}': "0x20"},),
        {"version": "1"},
    ),
    Case(
        "FallbackAnswers",
        {
            f'{_DIAGNOSES}{{fallback="true"}}': "0+11x30",
            f'{_DIAGNOSES}{{fallback="false"}}': "0+989x30",
        },
        (
            {
                f'{_DIAGNOSES}{{fallback="true"}}': "0+9x30",
                f'{_DIAGNOSES}{{fallback="false"}}': "0+991x30",
            },
        ),
        {},
        1,
    ),
    Case(
        "ReplicaMissing",
        {'hydraulic_deployment_healthy{application="model-1",deployment="Model"}': "0x20"},
        ({'hydraulic_deployment_healthy{application="model-1",deployment="Model"}': "1x20"},),
        {"application": "model-1", "deployment": "Model"},
    ),
    Case(
        "ReplicaStuck",
        _replicas(2, 1),
        (_replicas(2, 2), _replicas(1, 2)),
        {"application": "model-1", "deployment": "Model"},
    ),
    Case(
        "EventLoopBlocked",
        _histogram("hydraulic_event_loop_lag_seconds", 'process="model"', 30, 1000, "0.05", "0.3"),
        (
            _histogram(
                "hydraulic_event_loop_lag_seconds", 'process="model"', 30, 1000, "0.05", "0.25"
            ),
        ),
        {"process": "model"},
        1,
    ),
    Case(
        "QueueGrowing",
        {
            'hydraulic_diagnosis_queue_windows{replica="a"}': "200x20",
            'hydraulic_diagnosis_queue_windows{replica="b"}': "80x20",
        },
        (
            {
                'hydraulic_diagnosis_queue_windows{replica="a"}': "200x20",
                'hydraulic_diagnosis_queue_windows{replica="b"}': "50x20",
            },
        ),
    ),
    Case(
        "ConfigurationRefused",
        {"hydraulic_config_valid": "0x20"},
        ({"hydraulic_config_valid": "1x20"},),
    ),
    Case(
        "FileDescriptorsRunningOut",
        {
            'process_open_fds{process="ingress",replica="a"}': "850x20",
            'process_max_fds{process="ingress",replica="a"}': "1000x20",
        },
        (
            {
                'process_open_fds{process="ingress",replica="a"}': "750x20",
                'process_max_fds{process="ingress",replica="a"}': "1000x20",
            },
        ),
        {"process": "ingress", "replica": "a"},
    ),
    Case(
        "DatabaseErrors",
        {'hydraulic_database_errors_total{kind="refused",replica="a"}': "1000+7x20"},
        ({'hydraulic_database_errors_total{kind="refused",replica="a"}': "1000+5x20"},),
        {"kind": "refused"},
        4,
    ),
    Case(
        "DatabasePoolExhausted",
        {
            f'{_POOL}_connections{{process="ingress",replica="a",use="busy"}}': "94x20",
            f'{_POOL}_connections{{process="ingress",replica="a",use="idle"}}': "50x20",
            f'{_POOL}_max_connections{{process="ingress",replica="a"}}': "100x20",
        },
        (
            {
                f'{_POOL}_connections{{process="ingress",replica="a",use="busy"}}': "86x20",
                f'{_POOL}_connections{{process="ingress",replica="a",use="idle"}}': "50x20",
                f'{_POOL}_max_connections{{process="ingress",replica="a"}}': "100x20",
            },
        ),
        {"process": "ingress", "replica": "a"},
    ),
    Case(
        "DatabaseSlow",
        _histogram(
            "hydraulic_database_statement_seconds", 'statement="x"', 100, 1000, "0.5", "1.7"
        ),
        (
            _histogram(
                "hydraulic_database_statement_seconds", 'statement="x"', 100, 1000, "0.5", "1.4"
            ),
        ),
        {"statement": "x"},
        1,
    ),
    Case(
        "DatabaseConnectionsRunningOut",
        {
            'hydraulic_database_connections{state="active"}': "50x20",
            'hydraulic_database_connections{state="idle"}': "35x20",
            "hydraulic_database_max_connections": "100x20",
        },
        (
            {
                'hydraulic_database_connections{state="active"}': "40x20",
                'hydraulic_database_connections{state="idle"}': "35x20",
                "hydraulic_database_max_connections": "100x20",
            },
        ),
    ),
    Case(
        "TransactionOpenLong",
        {"hydraulic_database_oldest_transaction_seconds": "1000x20"},
        ({"hydraulic_database_oldest_transaction_seconds": "800x20"},),
    ),
    Case(
        "WriteQueueFilling",
        {'hydraulic_diagnoses_waiting{replica="a"}': "5500x20"},
        ({'hydraulic_diagnoses_waiting{replica="a"}': "4500x20"},),
        {"replica": "a"},
    ),
    Case(
        "DiagnosesDropped",
        {'hydraulic_diagnoses_unstored_total{replica="a"}': "0+1x20"},
        ({'hydraulic_diagnoses_unstored_total{replica="a"}': "7x20"},),
        {"replica": "a"},
        1,
    ),
    Case(
        "SpoolFilling",
        {
            'hydraulic_spool_bytes{replica="a"}': "140000000x20",
            'hydraulic_spool_bytes{replica="b"}': "0x20",
        },
        (
            {
                'hydraulic_spool_bytes{replica="a"}': "120000000x20",
                'hydraulic_spool_bytes{replica="b"}': "120000000x20",
            },
        ),
    ),
    Case(
        "DiskFilling",
        {"hydraulic_disk_free_bytes": "14x60", "hydraulic_disk_size_bytes": "100x60"},
        ({"hydraulic_disk_free_bytes": "16x60", "hydraulic_disk_size_bytes": "100x60"},),
    ),
    Case(
        "DiskFull",
        {"hydraulic_disk_free_bytes": "28x60", "hydraulic_disk_size_bytes": "1000x60"},
        ({"hydraulic_disk_free_bytes": "32x60", "hydraulic_disk_size_bytes": "1000x60"},),
    ),
    Case(
        "KeyExpiring",
        {"hydraulic_key_expiry_timestamp_seconds": "580000x200"},
        ({"hydraulic_key_expiry_timestamp_seconds": "680000x200"},),
    ),
    Case("ReadingsStale", _ages(78, 22), (_ages(82, 18),)),
    Case(
        "ReadingsRejected",
        {
            f'{_READINGS}{{outcome="rejected"}}': "0+11x40",
            f'{_READINGS}{{outcome="accepted"}}': "0+89x40",
        },
        (
            {
                f'{_READINGS}{{outcome="rejected"}}': "0+9x40",
                f'{_READINGS}{{outcome="accepted"}}': "0+91x40",
            },
        ),
        {},
        1,
    ),
    Case(
        "InputDrift",
        _ratio(
            'hydraulic_sensor_windows_drifted_total{quantity="pressure"}',
            'hydraulic_sensor_windows_total{quantity="pressure"}',
            22,
            100,
        ),
        (
            _ratio(
                'hydraulic_sensor_windows_drifted_total{quantity="pressure"}',
                'hydraulic_sensor_windows_total{quantity="pressure"}',
                18,
                100,
            ),
        ),
        {"quantity": "pressure"},
        1,
    ),
    Case(
        "AbstentionsHigh",
        _ratio(
            'hydraulic_component_abstentions_total{version="1",cause="evidence"}',
            'hydraulic_component_states_total{version="1",state="healthy"}',
            32,
            100,
        ),
        (
            _ratio(
                'hydraulic_component_abstentions_total{version="1",cause="evidence"}',
                'hydraulic_component_states_total{version="1",state="healthy"}',
                28,
                100,
            ),
        ),
        {"version": "1"},
        1,
    ),
    Case(
        "SensorFaultsMany",
        _ratio(
            'hydraulic_sensor_faults_total{quantity="flow",kind="stuck"}',
            'hydraulic_sensor_windows_total{quantity="flow"}',
            11,
            100,
        ),
        (
            _ratio(
                'hydraulic_sensor_faults_total{quantity="flow",kind="stuck"}',
                'hydraulic_sensor_windows_total{quantity="flow"}',
                9,
                100,
            ),
        ),
        {},
        1,
    ),
    Case(
        "FeedStalled",
        {_WRITTEN: "40x20"},
        ({_WRITTEN: "-110+60x20"},),
        {"process": "feed", "replica": "a"},
        3,
    ),
    Case(
        "TrainingStalled",
        {
            f"{_TRAINING}_update_timestamp_seconds{{{_OF_TRAINING}}}": "-10x60",
            f"{_TRAINING}_running{{{_OF_TRAINING}}}": "1x60",
        },
        (
            {
                f"{_TRAINING}_update_timestamp_seconds{{{_OF_TRAINING}}}": "-10x60",
                f"{_TRAINING}_running{{{_OF_TRAINING}}}": "0x60",
            },
            {
                f"{_TRAINING}_update_timestamp_seconds{{{_OF_TRAINING}}}": "50+60x60",
                f"{_TRAINING}_running{{{_OF_TRAINING}}}": "1x60",
            },
        ),
        {"process": "training", "replica": "a"},
        30,
    ),
    Case(
        "TrainingFailed",
        {'hydraulic_training_failed{process="training",replica="a"}': "1x20"},
        ({'hydraulic_training_failed{process="training",replica="a"}': "0x20"},),
        {"process": "training", "replica": "a"},
    ),
    Case(
        "GpuMemoryFull",
        {
            'hydraulic_gpu_memory_used_bytes{gpu="0",replica="a"}': "96x20",
            'hydraulic_gpu_memory_total_bytes{gpu="0",replica="a"}': "100x20",
        },
        (
            {
                'hydraulic_gpu_memory_used_bytes{gpu="0",replica="a"}': "94x20",
                'hydraulic_gpu_memory_total_bytes{gpu="0",replica="a"}': "100x20",
            },
        ),
        {"gpu": "0"},
    ),
)

BURNS: Mapping[str, tuple[Series, float]] = {
    "diagnosis_errors": (_requests(15, 1000), 15.0),
    "ingest_errors": (_requests(15, 1000, "/v1/readings"), 15.0),
    "diagnosis_latency": (_latency(150, 1000), 15.0),
}
"""Series of each objective and how fast they use its budget."""
