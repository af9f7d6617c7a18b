"""Checks a workspace image from inside, as its user; prints one JSON object a check: name, ok, message, seconds.

Argument: JSON with `frameworks` (name to version), `attach` (bool), `note`, `again` (the second start on one home).
"""

import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile

ASKED = json.loads(sys.argv[1])
HOME = pathlib.Path(os.environ["HOME"])
KERNEL = "/opt/elara/bin/elara-kernel"
PORT = 8888
TOKEN = "check"
EXTENSIONS = ("jupyterlab-elara", "@jupyterlab/git", "@jupyter-server/resource-usage")
TRAIN = {
    "scikit-learn": """
from sklearn.linear_model import LogisticRegression
assert LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]).score([[0.0], [3.0]], [0, 1]) == 1.0
""",
    "torch": """
import torch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
inputs, wanted = torch.randn(32, 4), torch.randn(32, 1)
def step() -> None:
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(inputs), wanted)
    loss.backward()
    optimizer.step()
    return loss.item()
first, second = step(), step()
assert second < first, (first, second)
""",
    "tensorflow": """
import numpy, tensorflow
model = tensorflow.keras.Sequential([tensorflow.keras.layers.Dense(1)])
model.compile(optimizer=tensorflow.keras.optimizers.SGD(0.05), loss="mse")
inputs, wanted = numpy.ones((32, 4), "float32"), numpy.zeros((32, 1), "float32")
losses = model.fit(inputs, wanted, epochs=3, verbose=0).history["loss"]
assert losses[-1] < losses[0], losses
""",
    "jax": """
import jax, jax.numpy as jnp, optax
def loss(weights): return jnp.mean((jnp.ones((8, 4)) @ weights - 1.0) ** 2)
optimizer = optax.sgd(0.1)
weights = jnp.zeros(4); state = optimizer.init(weights)
value, gradient = jax.jit(jax.value_and_grad(loss))(weights)
updates, state = optimizer.update(gradient, state)
assert loss(optax.apply_updates(weights, updates)) < value
""",
}
ATTACHED = """
import sys, torch
print(torch.cuda.is_available(), torch.cuda.device_count(), flush=True)
sys.stdin.readline()
print(torch.cuda.device_count(), flush=True)
model = torch.nn.Linear(4, 1).to("cuda")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = torch.nn.functional.mse_loss(model(torch.ones(8, 4, device="cuda")), torch.zeros(8, 1, device="cuda"))
loss.backward(); optimizer.step()
print(loss.item() == loss.item(), flush=True)
sys.stdin.readline()
print(torch.cuda.device_count(), flush=True)
"""
STORE = """
import json, sys
from elara_remoting import attachment, workspace
if sys.argv[2] == "-":
    attachment.write(sys.argv[1], attachment.detached(sys.argv[1]))
else:
    workspace.store_attachment(__import__("pathlib").Path(sys.argv[1]), json.load(open(sys.argv[2])), expires=0)
"""


def need(truth: object, message: str) -> None:
    """A check's condition; the message tells what was found instead."""
    if not truth:
        raise AssertionError(message)


def said(*command: str) -> str:
    """What a command prints; its failure is the check's."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    need(done.returncode == 0, f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


def user() -> None:
    """The workspace's user, a root that cannot be written, places that can."""
    need(os.getuid() == 1000 and os.getgid() == 1000, f"runs as {os.getuid()}:{os.getgid()}")
    for place in ("/opt/elara", "/usr", "/etc"):
        need(not os.access(place, os.W_OK), f"{place} can be written")
    for place in (str(HOME), "/tmp", "/run/elara", "/scratch"):
        need(os.access(place, os.W_OK), f"{place} cannot be written")
    # What volumes are mounted below; made by the mount alone, it would be root's.
    for folder in (HOME / "projects", HOME / "datasets"):
        need(folder.is_dir() and folder.stat().st_uid == os.getuid(), f"{folder} is not the user's")
    need(os.umask(0o002) == 0o002, "the umask is not 002")


def left_behind() -> None:
    """No compiler, no package cache."""
    for compiler in ("cc", "c++", "gcc", "g++", "clang", "ld"):
        need(shutil.which(compiler) is None, f"{shutil.which(compiler)} is in the image")
    for pattern in ("/var/lib/apt/lists/*_Packages*", "/var/cache/apt/archives/*.deb", "/var/cache/apt/*.bin"):
        found = list(pathlib.Path("/").glob(pattern[1:]))
        need(not found, f"{found[:1]} was left behind")


def packages() -> None:
    """What data scientists expect."""
    code = "import pandas, matplotlib.pyplot as p, sklearn, ipywidgets, mlflow; p.plot([1, 2]); p.savefig('/tmp/p.png')"
    said(KERNEL, "-c", code)
    said("git", "--version")
    for name, version in ASKED["frameworks"].items():
        distribution = "tensorflow-cpu" if name == "tensorflow" else name
        have = importlib.metadata.version(distribution).split("+")[0]
        need(have == version, f"{name} is {have}; the catalogue says {version}")


def training() -> None:
    """Each framework imports and trains a step."""
    for name in ASKED["frameworks"]:
        said(KERNEL, "-c", TRAIN[name])


def wheel(folder: pathlib.Path, name: str, version: str) -> pathlib.Path:
    """A package that holds one module."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        about = f"{name}-{version}.dist-info"
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: check\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return file


def installing() -> None:
    """A user's own install goes into the home, and cannot replace a pinned framework."""
    folder = pathlib.Path("/tmp/wheels")
    folder.mkdir(exist_ok=True)
    own = wheel(folder, "elara_image_check", "1.0")
    said("pip", "install", "--quiet", "--no-index", str(own))
    place = said(KERNEL, "-c", "import elara_image_check as e; print(e.__file__)").strip()
    need(place.startswith(os.environ["ELARA_ENVIRONMENT"]), f"the package went to {place}")
    pins = [line.partition("==")[0] for line in pathlib.Path(os.environ["PIP_CONSTRAINT"]).read_text().splitlines()]
    for name in pins:
        wheel(folder, name.replace("-", "_"), "99.0")
        command = ("pip", "install", "--no-index", "--find-links", str(folder), f"{name}==99.0")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        need(done.returncode != 0 and "constraint" in done.stderr + done.stdout, f"pip replaced {name}")


def still_installed() -> None:
    """After a restart what was installed before is there."""
    need(said(KERNEL, "-c", "import elara_image_check as e; print(e.VERSION)").strip() == "1.0", "it is gone")


def ask(path: str) -> str:
    """What the Jupyter server answers."""
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", headers={"Authorization": f"token {TOKEN}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def lab() -> None:
    """JupyterLab starts, with its extensions, its kernel in the user's environment, and a terminal."""
    log = pathlib.Path("/tmp/lab.log")
    command = ("jupyter-lab", "--no-browser", f"--ServerApp.port={PORT}", f"--IdentityProvider.token={TOKEN}")
    with log.open("wb") as output:
        # As a spawner would: a service to ask. That it is not there must not matter for a workspace's start.
        environment = {
            **os.environ,
            "ELARA_API_URL": "http://127.0.0.1:9/services/elara/api/v1",
            "JUPYTERHUB_API_TOKEN": "x",
        }
        arguments = ("/opt/elara/bin/" + command[0], *command[1:])
        server = subprocess.Popen(arguments, stdout=output, stderr=output, cwd=HOME, env=environment)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                ask("/api/status")
                break
            except OSError:
                need(server.poll() is None and time.monotonic() < until, f"no answer: {log.read_text()[-800:]}")
                time.sleep(0.2)
        page = ask("/lab")
        for name in EXTENSIONS:
            need(f'"{name}"' in page, f"the page does not load {name}")
        status = json.loads(ask("/elara/status"))
        if ASKED["attach"]:
            need(status["available"], f"the button is disabled: {status['why_not']}")
        else:
            need(not status["available"], "the button is enabled, though the catalogue says no")
            # Without a sentence of its own the server extension finds one, by what is installed.
            note = os.environ.get("ELARA_ATTACH_NOTE", status["why_not"])
            need(note == status["why_not"], f"the button says {status['why_not']!r}")
            need("ELARA_ATTACH_NOTE" not in os.environ or note == ASKED["note"], "the catalogue has another sentence")
        ask("/api/metrics/v1")
        said("sh", "-c", f'curl -fsS -o /dev/null "http://127.0.0.1:{PORT}${{JUPYTERHUB_SERVICE_PREFIX:-/}}api"')
        kernel = json.loads(ask("/api/kernelspecs"))["kernelspecs"]["python3"]["spec"]["argv"][0]
        need(kernel == KERNEL, f"kernels run {kernel}")
        need((HOME / "examples").is_dir(), "the examples are not in the home")
    finally:
        server.terminate()
        server.wait(30)


def attaching() -> None:
    """A running program has no device in silence, then one, and trains on it, then none again."""
    offer, errors, log = (pathlib.Path("/tmp") / name for name in ("offer.json", "errors", "node.log"))
    node = subprocess.Popen(
        ("elara", "serve", "--listen", "127.0.0.1:0", "--emulate", "1", "--device-memory", "256MiB", "-o", str(offer)),
        stdin=subprocess.DEVNULL,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
    )
    with errors.open("wb") as stream:
        program = subprocess.Popen(
            (KERNEL, "-c", ATTACHED), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True, bufsize=1
        )
    try:
        assert program.stdin and program.stdout
        read = program.stdout.readline
        before = read().strip()
        need(before == "False 0", f"before the attach: {before!r}; {errors.read_text()[-600:]}")
        need(errors.read_text() == "", f"not silent: {errors.read_text()[-600:]}")
        until = time.monotonic() + 120
        while not offer.exists():
            need(node.poll() is None and time.monotonic() < until, f"no device server: {log.read_text()[-800:]}")
            time.sleep(0.1)
        runtime = os.environ["ELARA_RUNTIME_DIR"]
        said("/opt/elara/bin/python", "-c", STORE, runtime, str(offer))
        program.stdin.write("\n")
        after = (read().strip(), read().strip())
        need(after == ("1", "True"), f"after the attach: {after}; {errors.read_text()[-600:]}")
        said("/opt/elara/bin/python", "-c", STORE, runtime, "-")
        program.stdin.write("\n")
        last = read().strip()
        need(last == "0", f"after the detach: {last!r}; {errors.read_text()[-600:]}")
        need(program.wait(30) == 0, errors.read_text()[-600:])
    finally:
        program.kill()
        node.terminate()
        node.wait(30)


CHECKS = [user, left_behind, packages, installing, training, lab, *([attaching] if ASKED["attach"] else [])]
for check in [still_installed] if ASKED["again"] else CHECKS:
    begun, ok, message = time.monotonic(), True, ""
    try:
        check()
    except Exception as error:
        ok, message = False, f"{error}" if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    told = {"check": check.__name__, "what": check.__doc__, "ok": ok, "message": message}
    print(json.dumps({**told, "seconds": round(time.monotonic() - begun, 1)}), flush=True)
