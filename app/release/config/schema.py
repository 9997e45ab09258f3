"""Strict models of `serve_config.yaml`: every key of every level, which Ray Serve does not check.

They follow Ray's own schema by hand, since importing Ray takes longer than a rollback may; a test
compares the two.
Invariant: a file that validates has no unknown key, and releases only applications that it has.
"""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from app.core.errors import SettingsError
from app.schemas.explain import explain
from app.schemas.places import place_of, shown
from app.serving.ingress.config import DiagnosticsArgs, IngressConfig, ModelArgs
from app.serving.ingress.traffic import Traffic
from app.serving.observability.logging import ReplicaConfig

DIAGNOSTICS = "app.main:diagnostics"
MODEL = "app.main:model"
_SHOWN_ERRORS = 5

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
RuntimeEnv = Mapping[str, Any]
"""Ray validates runtime environments itself."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpOptions(_Strict):
    """`http_options`."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    root_path: str = ""
    request_timeout_s: Amount | None = None
    keep_alive_timeout_s: NonNegativeInt | None = None
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None


class GrpcOptions(_Strict):
    """`grpc_options`."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    grpc_servicer_functions: tuple[str, ...] = ()
    request_timeout_s: Amount | None = None
    enable_reflection: bool = False


class LoggingOptions(_Strict):
    """`logging_config` of the file, an application or a deployment."""

    encoding: Literal["TEXT", "JSON"] = "TEXT"
    log_level: Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"] | int = "INFO"
    logs_dir: str | None = None
    enable_access_log: bool = True
    additional_log_standard_attrs: tuple[str, ...] = ()


class ActorOptions(_Strict):
    """`ray_actor_options`."""

    runtime_env: RuntimeEnv | None = None
    num_cpus: Amount | None = None
    num_gpus: Amount | None = None
    memory: Amount | None = None
    resources: Mapping[str, Amount] | None = None
    accelerator_type: str | None = None
    label_selector: Mapping[str, str] | None = None
    fallback_strategy: tuple[Mapping[str, Any], ...] | None = None


class Autoscaling(_Strict):
    """`autoscaling_config`."""

    min_replicas: NonNegativeInt = 1
    initial_replicas: NonNegativeInt | None = None
    max_replicas: PositiveInt = 1
    target_ongoing_requests: PositiveFloat | None = None
    metrics_interval_s: PositiveFloat | None = None
    look_back_period_s: PositiveFloat | None = None
    smoothing_factor: PositiveFloat | None = None
    upscale_smoothing_factor: PositiveFloat | None = None
    downscale_smoothing_factor: PositiveFloat | None = None
    upscaling_factor: PositiveFloat | None = None
    downscaling_factor: PositiveFloat | None = None
    downscale_delay_s: Amount | None = None
    downscale_to_zero_delay_s: Amount | None = None
    upscale_delay_s: Amount | None = None
    aggregation_function: str | None = None
    policy: Mapping[str, Any] | None = None

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"expected min_replicas up to max_replicas, found {self.min_replicas} and "
                f"{self.max_replicas}: correct them"
            )
        return self


class Deployment(_Strict):
    """One of an application's `deployments`."""

    name: str
    num_replicas: PositiveInt | Literal["auto"] | None = None
    max_ongoing_requests: PositiveInt | None = None
    max_queued_requests: Annotated[int, Field(ge=-1)] | None = None
    backpressure_config: Mapping[str, Any] | None = None
    user_config: Mapping[str, Any] | None = None
    autoscaling_config: Autoscaling | None = None
    graceful_shutdown_wait_loop_s: Amount | None = None
    graceful_shutdown_timeout_s: Amount | None = None
    health_check_period_s: Amount | None = None
    health_check_timeout_s: Amount | None = None
    ray_actor_options: ActorOptions | None = None
    placement_group_bundles: tuple[Mapping[str, float], ...] | None = None
    placement_group_strategy: str | None = None
    placement_group_bundle_label_selector: tuple[Mapping[str, str], ...] | None = None
    max_replicas_per_node: PositiveInt | None = None
    logging_config: LoggingOptions | None = None
    request_router_config: Mapping[str, Any] | None = None
    gang_scheduling_config: Mapping[str, Any] | None = None
    deployment_actors: tuple[Mapping[str, Any], ...] | None = None
    rolling_update_percentage: PositiveFloat | None = None
    max_surge_percent: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _one_number_of_replicas(self) -> Self:
        if isinstance(self.num_replicas, int) and self.autoscaling_config is not None:
            raise ValueError(
                "expected num_replicas or autoscaling_config, found both: leave one out"
            )
        return self


class Application(_Strict):
    """One of the `applications`."""

    name: Annotated[str, Field(min_length=1)]
    route_prefix: str | None = "/"
    import_path: str
    runtime_env: RuntimeEnv | None = None
    host: str | None = None
    port: int | None = None
    deployments: tuple[Deployment, ...] = ()
    autoscaling_policy: Mapping[str, Any] | None = None
    args: Mapping[str, Any] = Field(default_factory=dict)
    logging_config: LoggingOptions | None = None
    external_scaler_enabled: bool = False

    def deployment(self, name: str) -> Deployment | None:
        """Return a deployment by its name, or None."""
        return next((item for item in self.deployments if item.name == name), None)


class ServeConfig(_Strict):
    """The whole file."""

    applications: Annotated[tuple[Application, ...], Field(min_length=1)]
    proxy_location: Literal["Disabled", "HeadOnly", "EveryNode"] | None = None
    http_options: HttpOptions = HttpOptions()
    grpc_options: GrpcOptions | None = None
    controller_options: Mapping[str, Any] | None = None
    logging_config: LoggingOptions | None = None
    tracing_config: Mapping[str, Any] | None = None
    target_capacity: Annotated[float, Field(ge=0, le=100)] | None = None

    def application(self, name: str) -> Application | None:
        """Return an application by its name, or None."""
        return next((item for item in self.applications if item.name == name), None)

    @property
    def diagnostics(self) -> Application:
        """The application that serves HTTP; a validated file has exactly one."""
        return next(item for item in self.applications if item.import_path == DIAGNOSTICS)

    @property
    def traffic(self) -> Traffic:
        """Releases, weights and shadows."""
        ingress = self.diagnostics.deployment("Ingress")
        assert ingress is not None
        return IngressConfig.model_validate(ingress.user_config).traffic

    def model_args(self, application: str) -> ModelArgs:
        """Return the arguments of a model application of the file."""
        found = self.application(application)
        assert found is not None
        return ModelArgs.model_validate(found.args)


def read_schema(data: object, where: str) -> ServeConfig:
    """Validate a file's content.

    Args:
        data: Parsed YAML.
        where: Name of the file, for messages.

    Raises:
        SettingsError: Lists the unknown keys and invalid values with their places.
    """
    try:
        config = ServeConfig.model_validate(data)
    except ValidationError as error:
        raise _refused(where, _messages(error, ())) from error
    _check_applications(config, where)
    return config


def _check_applications(config: ServeConfig, where: str) -> None:
    names = Counter(application.name for application in config.applications)
    found = [f"applications: '{name}' is listed twice" for name in sorted(names) if names[name] > 1]
    for position, application in enumerate(config.applications):
        found += _errors_of(application, ("applications", position))
    count = sum(item.import_path == DIAGNOSTICS for item in config.applications)
    if count != 1:
        found.append(f"applications: expected one with import_path {DIAGNOSTICS}, found {count}")
    elif not found:
        for release in config.traffic.releases:
            application_of = config.application(release.application)
            if application_of is None or application_of.import_path != MODEL:
                found.append(
                    f"releases: version {release.version} is released from application "
                    f"'{release.application}', but the file has no such application with "
                    f"import_path {MODEL}"
                )
    if found:
        raise _refused(where, found)


def _errors_of(application: Application, place: tuple[str | int, ...]) -> list[str]:
    """Return errors of the parts that Ray passes on: arguments, `user_config`, deployments."""
    typed: dict[str, tuple[type[BaseModel], frozenset[str]]] = {
        DIAGNOSTICS: (DiagnosticsArgs, frozenset({"Ingress", "GraphBuilder"})),
        MODEL: (ModelArgs, frozenset({"Model"})),
    }
    if application.import_path not in typed:
        return []
    arguments, known = typed[application.import_path]
    found: list[str] = []
    found += _errors(arguments, application.args, (*place, "args"))
    for position, deployment in enumerate(application.deployments):
        here = (*place, "deployments", position)
        if deployment.name not in known:
            found.append(f"{place_of((*here, 'name'))}: {_unknown(deployment.name, known)}")
        elif deployment.name == "Ingress":
            found += _errors(IngressConfig, deployment.user_config, (*here, "user_config"))
        elif deployment.user_config is not None:
            found += _errors(ReplicaConfig, deployment.user_config, (*here, "user_config"))
    if application.import_path == DIAGNOSTICS and application.deployment("Ingress") is None:
        found.append(
            f"{place_of((*place, 'deployments'))}: expected Ingress with its user_config, found "
            "none"
        )
    return found


def _errors(model: type[BaseModel], data: object, place: tuple[str | int, ...]) -> list[str]:
    try:
        model.model_validate(data)
    except ValidationError as error:
        return _messages(error, place, model)
    return []


def _messages(
    error: ValidationError, place: tuple[str | int, ...], model: type[BaseModel] | None = None
) -> list[str]:
    messages = []
    for item in error.errors():
        loc = (*place, *item["loc"])
        if item["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
            text = _unknown(str(item["loc"][-1]), _names(model))
        else:
            text = explain(item)
        messages.append(f"{place_of(loc)}: {text}" if loc else text)
    return messages


def _unknown(name: str, known: Sequence[str] | frozenset[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"unknown name {shown(name)}" + (f", did you mean '{near[0]}'?" if near else "")


def _names(model: type[BaseModel] | None) -> frozenset[str]:
    """Return the valid names that a misspelt key may stand for: of a model, or of all levels."""
    models = _Strict.__subclasses__() if model is None else [model]
    return frozenset(name for item in models for name in item.model_fields)


def _refused(where: str, messages: Sequence[str]) -> SettingsError:
    more = f"; and {len(messages) - _SHOWN_ERRORS} more" if len(messages) > _SHOWN_ERRORS else ""
    return SettingsError(f"'{where}' can't be used: {'; '.join(messages[:_SHOWN_ERRORS])}{more}")
