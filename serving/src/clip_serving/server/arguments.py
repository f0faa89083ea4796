"""tritonserver's command line, for the embedded server and for the container."""

from __future__ import annotations

from clip_serving import defaults


def server_arguments(
    *,
    repository: str,
    host: str,
    grpc_port: int = defaults.GRPC_PORT,
    http_port: int = defaults.HTTP_PORT,
    metrics_port: int = defaults.METRICS_PORT,
    model_config_name: str | None = None,
    backend_directory: str | None = None,
    cache_directory: str | None = None,
) -> list[str]:
    """The arguments after `tritonserver`, in a fixed order.

    `model_config_name` selects `configs/<name>.pbtxt` of each model that has one. Clients cannot load, unload
    or change models, and tritonserver does not complete a config from a model's file.
    """
    options: list[tuple[str, object]] = [
        ("model-repository", repository),
        ("model-control-mode", "none"),
        ("strict-readiness", "true"),
        ("exit-timeout-secs", defaults.EXIT_TIMEOUT_S),
        ("grpc-address", host),
        ("grpc-port", grpc_port),
        ("grpc-max-connection-age", defaults.GRPC_CONNECTION_AGE_MS),
        ("grpc-max-connection-age-grace", defaults.GRPC_CONNECTION_GRACE_MS),
        ("http-address", host),
        ("http-port", http_port),
        ("metrics-address", host),
        ("metrics-port", metrics_port),
    ]
    optional = [
        ("model-config-name", model_config_name),
        ("backend-directory", backend_directory),
        ("cache-directory", cache_directory),
    ]
    options += [(name, value) for name, value in optional if value is not None]
    return ["--disable-auto-complete-config", *(f"--{name}={value}" for name, value in options)]
