"""deploy/kubernetes: the same server as docker-compose.yml's, with probes that embed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from clip_batch import cli as batch_cli
from clip_client import defaults as client_defaults
from clip_client.cli import arguments
from clip_serving import defaults
from clip_serving.server.arguments import server_arguments

EXPORT = "clip-triton-export"
STAMP = ".exported.json"
"""deploy/export_once.py writes it when an export is complete."""
FILE = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "clip-triton.yaml"


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    return {part["kind"]: part for part in yaml.safe_load_all(FILE.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def pod(documents: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = documents["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_command_line_is_the_embedded_servers(pod: dict[str, Any]) -> None:
    (server,) = pod["containers"]
    wanted = server_arguments(repository="/model_repository", host="0.0.0.0")
    assert server["args"] == ["python3", "/opt/clip-triton/start_server.py", "tritonserver", *wanted]
    assert pod["terminationGracePeriodSeconds"] > defaults.EXIT_TIMEOUT_S


def test_no_request_is_cut_off_with_its_connection() -> None:
    assert defaults.GRPC_CONNECTION_GRACE_MS > 1000 * client_defaults.DEADLINE_S


def test_probes_embed_and_their_options_exist(pod: dict[str, Any]) -> None:
    (server,) = pod["containers"]
    startup = server["startupProbe"]["exec"]["command"]
    assert startup[:3] == ["python3", "-m", "clip_client.cli"]
    options = arguments.parser().parse_args(startup[3:])
    assert options.check == [f"127.0.0.1:{defaults.GRPC_PORT}"]
    assert options.wait < server["startupProbe"]["timeoutSeconds"]
    program, script, *options = server["livenessProbe"]["exec"]["command"]
    assert (program, options) == ("python3", ["--report-only"])
    assert (FILE.parents[1] / Path(script).name).is_file()
    assert server["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"


def test_only_labelled_pods_reach_grpc_and_nobody_http(documents: dict[str, Any]) -> None:
    spec = documents["NetworkPolicy"]["spec"]
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    ports = {port["port"]: rule for rule in spec["ingress"] for port in rule["ports"]}
    assert set(ports) == {"grpc", "metrics"}
    assert ports["grpc"]["from"] == [{"podSelector": {"matchLabels": {"clip-triton-client": "true"}}}]


def test_volumes_mounts_and_selectors_fit(documents: dict[str, Any], pod: dict[str, Any]) -> None:
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert ":" in container["image"]
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert documents["Service"]["spec"]["selector"].items() <= labels.items()
    assert documents["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_one_export_fills_the_volume_of_all_pods(documents: dict[str, Any], pod: dict[str, Any]) -> None:
    job = documents["Job"]["spec"]["template"]["spec"]
    claim = documents["PersistentVolumeClaim"]["metadata"]["name"]
    (export,) = job["containers"]
    (server,) = pod["containers"]
    (waits,) = pod["initContainers"]
    for spec, read_only in ((job, None), (pod, True)):
        (volume,) = [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        assert volume["persistentVolumeClaim"].get("readOnly") is read_only
    for container, read_only in ((export, None), (server, True), (waits, True)):
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "models"]
        assert (mount["mountPath"], mount.get("readOnly")) == ("/model_repository", read_only)
    assert waits["image"] == server["image"]
    assert f"/model_repository/{STAMP}" in waits["command"][-1]
    assert export["securityContext"] == server["securityContext"]
    assert {key: job["securityContext"][key] for key in pod["securityContext"]} == pod["securityContext"]


def test_a_new_pod_waits_for_the_old_ones_gpu(documents: dict[str, Any]) -> None:
    assert documents["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}


# --- clip-batch ------------------------------------------------------------------------------------

BATCH = FILE.with_name("clip-batch.yaml")


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    return {part["kind"]: part for part in yaml.safe_load_all(BATCH.read_text(encoding="utf-8"))}


def test_a_pod_runs_the_partition_of_its_index(
    batch: dict[str, Any], documents: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = batch["Job"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "17")
    options = batch_cli._parser().parse_args(container["args"])
    assert (job["completionMode"], options.partition) == ("Indexed", 17)
    service = documents["Service"]["metadata"]["name"]
    assert options.url == [f"dns:///{service}:{defaults.GRPC_PORT}"]
    budget, _ = job["podFailurePolicy"]["rules"]
    assert budget["onExitCodes"]["values"] == [batch_cli.OVER_BUDGET]


def test_batch_pods_may_reach_the_server_and_write_the_output(
    batch: dict[str, Any], documents: dict[str, Any]
) -> None:
    template = batch["Job"]["spec"]["template"]
    ports = {
        port["port"]: rule for rule in documents["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]
    }
    (allowed,) = ports["grpc"]["from"]
    assert allowed["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    (out,) = [
        mount for mount in container["volumeMounts"] if container["args"][1].startswith(mount["mountPath"])
    ]
    claim = volumes[out["name"]]["persistentVolumeClaim"]["claimName"]
    assert claim == batch["PersistentVolumeClaim"]["metadata"]["name"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True


# --- tiers.yaml ----------------------------------------------------------------------------------

TIERS_FILE = FILE.with_name("tiers.yaml")
TIERS = get_args(defaults.Tier)


@pytest.fixture(scope="module")
def tiers() -> dict[tuple[str, str], Any]:
    """By kind and tier."""
    parts = yaml.safe_load_all(TIERS_FILE.read_text(encoding="utf-8"))
    found = {(part["kind"], part["metadata"]["name"].removeprefix("clip-triton-")): part for part in parts}
    kinds = ("Deployment", "Service", "HorizontalPodAutoscaler", "NetworkPolicy")
    assert found.keys() == {(kind, tier) for kind in kinds for tier in TIERS}
    return found


@pytest.mark.parametrize("tier", TIERS)
def test_a_tiers_pod_is_that_of_the_whole_server_with_its_part(
    tiers: dict[tuple[str, str], Any], pod: dict[str, Any], tier: str
) -> None:
    spec = tiers["Deployment", tier]["spec"]["template"]["spec"]
    (server,), (whole,) = spec["containers"], pod["containers"]
    same = ("image", "args", "ports", "livenessProbe", "readinessProbe", "securityContext")
    assert {key: server[key] for key in same} == {key: whole[key] for key in same}
    for key in ("securityContext", "initContainers", "terminationGracePeriodSeconds"):
        assert spec[key] == pod[key]
    assert server["env"] == [*whole["env"], {"name": "CLIP_TIER", "value": tier}]
    options = arguments.parser().parse_args(server["startupProbe"]["exec"]["command"][3:])
    assert (options.check, options.tier) == ([f"127.0.0.1:{defaults.GRPC_PORT}"], tier)
    assert ("nvidia.com/gpu" in server["resources"]["limits"]) == (tier == "encode")
    mounts, volumes = ({each["name"] for each in part} for part in (server["volumeMounts"], spec["volumes"]))
    assert mounts == volumes
    (claim,) = [each["persistentVolumeClaim"] for each in spec["volumes"] if "persistentVolumeClaim" in each]
    assert claim in [each.get("persistentVolumeClaim") for each in pod["volumes"]]


@pytest.mark.parametrize("tier", TIERS)
def test_what_belongs_to_a_tier_selects_its_pods(
    tiers: dict[tuple[str, str], Any], documents: dict[str, Any], tier: str
) -> None:
    deployment = tiers["Deployment", tier]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == {"app": f"clip-triton-{tier}"}
    service, policy = tiers["Service", tier]["spec"], tiers["NetworkPolicy", tier]["spec"]
    assert service["selector"] == policy["podSelector"]["matchLabels"] == labels
    assert service["ports"] == documents["Service"]["spec"]["ports"]
    assert policy["ingress"] == documents["NetworkPolicy"]["spec"]["ingress"]


@pytest.mark.parametrize(("tier", "model"), [("decode", defaults.PREPROCESS), ("encode", defaults.ENCODER)])
def test_a_tier_scales_on_the_documented_metric(
    tiers: dict[tuple[str, str], Any], tier: str, model: str
) -> None:
    spec = tiers["HorizontalPodAutoscaler", tier]["spec"]
    target = spec["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", tiers["Deployment", tier]["metadata"]["name"])
    assert "replicas" not in tiers["Deployment", tier]["spec"], "it would reset the autoscaler's"
    (metric,) = spec["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert metric["pods"]["metric"]["selector"]["matchLabels"] == {"model": model}
    monitor = (FILE.parents[2] / "docs" / "how-to" / "monitor.md").read_text(encoding="utf-8")
    assert re.search(rf"scale on this\) \| `{name}", monitor)


def test_the_export_of_the_tiers_can_be_applied_alone(documents: dict[str, Any]) -> None:
    exports = {kind for kind, each in documents.items() if each["metadata"].get("labels") == {"app": EXPORT}}
    assert exports == {"PersistentVolumeClaim", "Job"}
    assert f"kubectl apply -l app={EXPORT} -f" in TIERS_FILE.read_text(encoding="utf-8")
