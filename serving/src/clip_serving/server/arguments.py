"""tritonserver's command line, for the embedded server and for the container."""

from __future__ import annotations

from collections.abc import Sequence

from clip_serving import defaults

_RESTRICTED = "shared-memory,model-repository,trace,logging"
"""Protocols that no client needs. A shared-memory region that is truncated ends tritonserver."""
_KEY = "clip-admin"
_GRPC_RESTRICTION = f"--grpc-restricted-protocol={_RESTRICTED}:{_KEY}="


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
    admin_key: str | None = None,
    shm_prefix: str | None = None,
) -> list[str]:
    """The arguments after `tritonserver`, in a fixed order.

    Only clients with the header of `admin_key` may use shared memory and change what is traced and logged.
    The Python backend's regions in shared memory are named `shm_prefix` and more. `model_config_name` selects
    `configs/<name>.pbtxt` of each model that has one. Clients cannot load, unload or change models, and
    tritonserver does not complete a config from a model's file.
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
    if shm_prefix is not None:
        options.append(("backend-config", f"python,shm-region-prefix-name={shm_prefix}"))
        options.append(("backend-config", f"python,stub-timeout-seconds={defaults.STUB_TIMEOUT_S}"))
    if admin_key is not None:
        for option in ("http-restricted-api", "grpc-restricted-protocol"):
            options.append((option, f"{_RESTRICTED}:{_KEY}={admin_key}"))
    return ["--disable-auto-complete-config", *(f"--{name}={value}" for name, value in options)]


def admin_headers(command: Sequence[str]) -> dict[str, str]:
    """The gRPC header for the protocols that a server with this command line restricts; empty if none."""
    keys = [word.removeprefix(_GRPC_RESTRICTION) for word in command if word.startswith(_GRPC_RESTRICTION)]
    return {f"triton-grpc-protocol-{_KEY}": key for key in keys[-1:]}
