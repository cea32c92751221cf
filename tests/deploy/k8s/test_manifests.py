"""The manifests agree with the image, docker-compose.yml and the settings."""

import re
from typing import Any

import pytest
import yaml

from producer.gateway.process import supervisor as gateway
from producer.monitor.health import CHECKS
from tests.deploy.k8s.manifests import EXAMPLE, FOLDER, OBJECTS, PODS, container, kustomizations, values
from tests.test_compose import SERVICES
from tests.worker_process import ROOT
from vqa.gateway_settings import GatewaySettings
from vqa.settings import NAMES
from workers.settings import WorkerSettings
from workers.supervisor import supervisor as workers

DOCKERFILE = (ROOT / "Dockerfile").read_text()
WORKER, GATEWAY, METRICS, REDIS = "Deployment-worker", "Deployment-gateway", "Deployment-metrics", "StatefulSet-redis"
#: by the service of docker-compose.yml
SAME = {"worker-0": WORKER, "gateway": GATEWAY, "metrics": METRICS, "redis": REDIS}


def test_every_pod_is_looked_at() -> None:
    assert {*PODS} == {*SAME.values()}


@pytest.mark.parametrize("service", SAME)
def test_images_and_commands_are_those_of_compose(service: str) -> None:
    own = container(SAME[service])
    # the example gives ours registry and tag
    assert own["image"] == SERVICES[service]["image"].removesuffix(":${VERSION:-0.0.0}")
    if service != "redis":
        # the image's entry point stays
        assert "command" not in own
        assert own.get("args") == SERVICES[service].get("command")


@pytest.mark.parametrize("service", ["worker-0", "gateway"])
def test_settings_are_those_of_compose(service: str) -> None:
    theirs, own = SERVICES[service]["environment"], values(SAME[service])
    assert {name for name in own if name in theirs and own[name] != theirs[name]} <= {"VQA_REDIS_URL"}


def test_redis_is_configured_as_by_compose() -> None:
    def lines(text: str) -> set[str]:
        return {line for line in text.splitlines() if line and not line.startswith("#")}

    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["configs"]["redis"]["content"]
    wanted = {line.replace("${REDIS_MAXMEMORY:-4gb}", "4gb") for line in lines(compose)}
    own = lines((FOLDER / "base" / "redis.conf").read_text())
    # the password is start-redis.sh's
    assert {line for line in wanted if not line.startswith("requirepass")} <= own


def test_every_setting_is_known() -> None:
    texts = [path.read_text() for path in FOLDER.rglob("*") if path.is_file()]
    named = {name for text in texts for name in re.findall(r"\bVQA_[A-Z_]+\b", text)}
    # of the comment on what Services would define
    assert named - {*NAMES} == {"VQA_PORT"}


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_has_least_rights(pod: str) -> None:
    spec, own = PODS[pod]["spec"], container(pod)
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not spec["automountServiceAccountToken"]
    # else Services named vqa-... would define variables that are no settings
    assert not spec["enableServiceLinks"]


@pytest.mark.parametrize("pod", [WORKER, GATEWAY, METRICS])
def test_a_pod_runs_as_the_image_s_user(pod: str) -> None:
    [user] = {*re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)}
    assert PODS[pod]["spec"]["securityContext"]["runAsUser"] == int(user)


@pytest.mark.parametrize("pod", PODS)
def test_every_mount_has_its_volume(pod: str) -> None:
    claims = [each["metadata"]["name"] for each in OBJECTS[pod]["spec"].get("volumeClaimTemplates", [])]
    volumes = [*claims, *(each["name"] for each in PODS[pod]["spec"]["volumes"])]
    assert sorted(volumes) == sorted(each["name"] for each in container(pod)["volumeMounts"])


def test_a_worker_may_write_where_its_image_does() -> None:
    mounted = {each["mountPath"] for each in container(WORKER)["volumeMounts"]}
    folders = re.findall(r"(?:HF_HOME=|WORKDIR )(/(?!src)\S+)", DOCKERFILE.partition("FROM base AS worker")[2])
    assert {*folders, "/tmp"} == mounted


def test_a_worker_has_one_card_and_drains_before_it_is_killed() -> None:
    assert container(WORKER)["resources"]["limits"] == {"nvidia.com/gpu": 1}
    drain_s = float(values(WORKER)["VQA_DRAIN_S"])
    assert drain_s == WorkerSettings().drain_s
    assert PODS[WORKER]["spec"]["terminationGracePeriodSeconds"] >= drain_s + workers._KILL_AFTER_S + workers._END_S


def test_a_gateway_drains_before_it_is_killed() -> None:
    [_, pause_s] = container(GATEWAY)["lifecycle"]["preStop"]["exec"]["command"]
    drain_s = float(values(GATEWAY)["VQA_GATEWAY_DRAIN_S"])
    assert drain_s == GatewaySettings().drain_s
    assert PODS[GATEWAY]["spec"]["terminationGracePeriodSeconds"] >= float(pause_s) + drain_s + gateway._END_S


def test_a_worker_gives_up_by_itself_before_it_is_restarted() -> None:
    startup = container(WORKER)["startupProbe"]
    startup_s = startup["periodSeconds"] * startup["failureThreshold"]
    assert float(values(WORKER)["VQA_READY_TIMEOUT_S"]) < startup_s < OBJECTS[WORKER]["spec"]["progressDeadlineSeconds"]


def test_no_outage_of_redis_restarts_workers() -> None:
    assert "livenessProbe" not in container(WORKER)


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe"])
def test_a_worker_is_probed_as_by_compose(probe: str) -> None:
    command = container(WORKER)[probe]["exec"]["command"]
    assert ["CMD", *command] == SERVICES["worker-0"]["healthcheck"]["test"]
    assert command[-1] in CHECKS


def test_ports_are_those_that_processes_listen_on() -> None:
    def port(pod: str) -> int:
        [found] = container(pod)["ports"]
        return int(found["containerPort"])

    assert port(GATEWAY) == GatewaySettings().port
    assert values(WORKER)["VQA_METRICS_ADDRESS"] == f":{port(WORKER)}"
    assert container(METRICS)["args"][-1] == f":{port(METRICS)}"
    assert f"@redis:{port(REDIS)}/" in values(WORKER)["VQA_REDIS_URL"]


def _pods(selector: dict[str, Any]) -> set[str]:
    def fits(labels: dict[str, str]) -> bool:
        return selector.get("matchLabels", {}).items() <= labels.items() and all(
            labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", [])
        )

    return {name for name, pod in PODS.items() if fits(pod["metadata"]["labels"])}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Deployment-worker", {WORKER}),
        ("Deployment-gateway", {GATEWAY}),
        ("Deployment-metrics", {METRICS}),
        ("StatefulSet-redis", {REDIS}),
        ("PodDisruptionBudget-worker", {WORKER}),
        ("PodDisruptionBudget-gateway", {GATEWAY}),
        ("PodMonitor-vqa-workers", {WORKER}),
        ("PodMonitor-vqa-queue", {METRICS}),
    ],
)
def test_a_selector_finds_its_pods(name: str, wanted: set[str]) -> None:
    assert _pods(OBJECTS[name]["spec"]["selector"]) == wanted


@pytest.mark.parametrize(("name", "pod"), [("redis", REDIS), ("gateway", GATEWAY)])
def test_a_service_leads_to_its_pods(name: str, pod: str) -> None:
    spec = OBJECTS[f"Service-{name}"]["spec"]
    assert _pods({"matchLabels": spec["selector"]}) == {pod}
    assert [each["targetPort"] for each in spec["ports"]] == [each["name"] for each in container(pod)["ports"]]


def test_our_pods_and_producers_alone_reach_redis() -> None:
    spec = OBJECTS["NetworkPolicy-redis"]["spec"]
    assert _pods(spec["podSelector"]) == {REDIS}
    [rule] = spec["ingress"]
    own, producers = rule["from"]
    assert _pods(own["podSelector"]) == {WORKER, GATEWAY, METRICS}
    # an empty selector would be every pod
    assert producers["podSelector"]["matchLabels"]


def test_prometheus_alone_reaches_the_metrics() -> None:
    spec = OBJECTS["NetworkPolicy-metrics"]["spec"]
    assert _pods(spec["podSelector"]) == {WORKER, METRICS}
    [rule] = spec["ingress"]
    assert rule["from"][0]["namespaceSelector"]["matchLabels"]


def test_every_pod_has_a_network_policy() -> None:
    policies = [each for name, each in OBJECTS.items() if name.startswith("NetworkPolicy-")]
    assert set.union(*(_pods(each["spec"]["podSelector"]) for each in policies)) == {*PODS}


def test_pod_monitors_give_the_jobs_the_names_that_rules_look_for() -> None:
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    monitors = [each for name, each in OBJECTS.items() if name.startswith("PodMonitor-")]
    endpoints = [endpoint for each in monitors for endpoint in each["spec"]["podMetricsEndpoints"]]
    jobs = [rule["replacement"] for each in endpoints for rule in each["relabelings"] if rule["targetLabel"] == "job"]
    assert sorted(jobs) == sorted(each["job_name"] for each in scraped)
    for pod in (WORKER, METRICS):
        assert {each["port"] for each in endpoints} == {each["name"] for each in container(pod)["ports"]}


def test_what_pods_read_of_secrets_is_in_the_example() -> None:
    example = kustomizations()["example"]
    text = (EXAMPLE / "secrets.env.example").read_text()
    explained = {*re.findall(r"^(?:# )?(\w+)=", text, re.MULTILINE)}
    read = [each["valueFrom"]["secretKeyRef"] for pod in PODS for each in container(pod)["env"] if "valueFrom" in each]
    assert {each["key"] for each in read} | {"VQA_REDIS_URL"} == explained
    assert {each["name"] for each in read} == {each["name"] for each in example["secretGenerator"]}
    maps = [each["configMapRef"]["name"] for each in container(WORKER)["envFrom"]]
    assert maps == [each["name"] for each in example["configMapGenerator"]]
