"""The container of `candle-coreml serve` and the manifests for Kubernetes: `pytest scale/test_containers.py`.

The image is built from a finished static binary, by the stage of the Containerfile that is shipped:

    CANDLE_COREML_STATIC   the binary, such as target/x86_64-unknown-linux-musl/release/candle-coreml
    PODMAN                 the command (podman), with options, such as "podman --runtime runc"

What is missing is skipped, and pytest says so.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PODMAN = shlex.split(os.environ.get("PODMAN", "podman"))
IMAGE = "localhost/candle-coreml:test"
KEY = "a key for tests"
VERSIONS = ["1.30", "1.32", "1.34", "1.36"]


def podman(*arguments, check=True):
    done = subprocess.run([*PODMAN, *arguments], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    binary = os.environ.get("CANDLE_COREML_STATIC")
    if not binary:
        pytest.skip("CANDLE_COREML_STATIC names no binary")
    if not shutil.which(PODMAN[0]):
        pytest.skip(f"there is no {PODMAN[0]}")
    context = tmp_path_factory.mktemp("image")
    shutil.copy(binary, context / "candle-coreml")
    # The stage that is shipped; the other one compiles.
    shipped = (ROOT / "scale/Containerfile").read_text().split("FROM scratch", 1)[1]
    (context / "Containerfile").write_text("FROM scratch" + shipped.replace("--from=build /candle-coreml", "candle-coreml"))
    podman("build", "-t", IMAGE, str(context))
    yield IMAGE
    podman("rmi", "-f", IMAGE, check=False)


class Server:
    """A container that serves the small model, as scale/kubernetes/serve.yaml starts it."""

    def __init__(self, image, *more):
        self.url = f"http://127.0.0.1:{port()}"
        self.name = f"candle-coreml-{time.monotonic_ns()}"
        podman(
            "run", "--detach", "--name", self.name, "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges",
            "--network", "host", "--volume", f"{ROOT}/models/tiny-qwen3:/model:ro", "--env", f"CANDLE_COREML_SERVE_KEY={KEY}",
            image, "--model", "/model", "--share", "1024", "--grace", "45", "--port", self.url.rsplit(":", 1)[1], *more)
        until = time.monotonic() + 60
        while self.status("/health") != 200:
            assert time.monotonic() < until, podman("logs", self.name).stderr
            time.sleep(0.1)

    def request(self, path, body=None, key=KEY):
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        return urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=60)

    def status(self, path, **more):
        try:
            return self.request(path, **more).status
        except urllib.error.HTTPError as refused:
            return refused.code
        except OSError:
            return None

    def inspect(self, field):
        return podman("inspect", "--format", "{{" + field + "}}", self.name).stdout.strip()

    def end(self):
        podman("rm", "-f", self.name, check=False)


@pytest.fixture
def server(image):
    server = Server(image)
    yield server
    server.end()


def chat(text, **more):
    return {"model": "model", "temperature": 0, "messages": [{"role": "user", "content": text}], **more}


def test_the_image_is_a_binary_alone(image):
    container = podman("create", image).stdout.strip()
    try:
        listed = subprocess.run([*PODMAN, "export", container], capture_output=True, check=True).stdout
        names = subprocess.run(["tar", "-tf", "-"], input=listed, capture_output=True, check=True).stdout.decode().split()
    finally:
        podman("rm", container)
    # Besides the mount points that an engine makes.
    files = [n for n in names if not n.endswith("/") and n.split("/")[0] not in ("dev", "proc", "run", "sys", "etc")]
    assert files == ["candle-coreml"]


def test_it_answers_without_rights_and_writes_nothing(server):
    with server.request("/v1/chat/completions", chat("What is 37 + 45?")) as answer:
        assert json.load(answer)["choices"][0]["message"]["content"] == "82"
    assert server.status("/v1/models", key="another") == 401
    with server.request("/metrics") as metrics:
        assert "candle_coreml_queue_depth" in metrics.read().decode()
    process = pathlib.Path(f"/proc/{server.inspect('.State.Pid')}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    assert status["Uid"].split() == ["65532"] * 4 and status["Gid"].split() == ["65532"] * 4
    assert {int(status[c], 16) for c in ("CapEff", "CapPrm", "CapBnd")} == {0}
    root = [m.split() for m in (process / "mounts").read_text().splitlines() if m.split()[1] == "/"]
    assert root and all("ro" in m[3].split(",") for m in root), root
    written = [f for f in (os.readlink(fd) for fd in (process / "fd").iterdir()) if f.startswith("/") and not f.startswith("/dev")]
    assert written == []


def test_answers_that_are_under_way_end_after_sigterm(server):
    pieces, ended = [], {}

    def read():
        # Hot enough to be long; the limit ends it.
        body = chat("Hello!", stream=True, temperature=2, seed=1, max_tokens=200)
        with server.request("/v1/chat/completions", body) as answer:
            for line in answer:
                pieces.append(line.decode().strip())
        ended["at"] = time.monotonic()

    # More than there are slots, so that they wait for each other.
    readers = [threading.Thread(target=read) for _ in range(32)]
    process = int(server.inspect(".State.Pid"))
    for reader in readers:
        reader.start()
    until = time.monotonic() + 30
    while not pieces and time.monotonic() < until:
        time.sleep(0.005)
    # Those that came last are in the queue by now.
    time.sleep(0.05)
    told = time.monotonic()
    os.kill(process, signal.SIGTERM)
    for reader in readers:
        reader.join(60)
    code = podman("wait", server.name).stdout.strip()
    assert pieces.count("data: [DONE]") == len(readers), pieces[-3:]
    assert ended["at"] > told, "the answers ended before the signal: nothing was drained"
    assert code == "0"
    assert server.status("/health") is None, "the port is closed"


def manifests():
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("kubernetes_validate")
    for file in sorted((ROOT / "scale/kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            yield file.name, document


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_follow_the_schemas_of_kubernetes(version):
    checked = 0
    for name, document in manifests():
        import kubernetes_validate

        kubernetes_validate.validate(document, version, strict=True)
        checked += 1
    assert checked == 5


def test_a_field_that_kubernetes_does_not_have_is_found():
    for name, document in manifests():
        if document["kind"] != "Deployment":
            continue
        import kubernetes_validate

        document["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
