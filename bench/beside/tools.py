"""The programs that hf-oci is measured beside: where they are, which version, and how they are run and installed."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import measure

CACHE = pathlib.Path(
    os.environ.get("HF_OCI_TEST_CACHE") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "hf-oci-tests"
)
VENV = CACHE / "peers-venv"
# The first as in tests/e2e/install.sh.
PYPI = ("huggingface_hub==2.4.0", "oci-modelcar==1.3.0", "olah==0.5.4")
DEBIAN = ("curl", "wrk", "nginx-light", "docker-registry", "containerd", "stargz-snapshotter", "python3-venv")
# No telemetry, no look for updates, and no Xet, which is another protocol.
QUIET = {
    "HF_HUB_DISABLE_XET": 1,
    "HF_HUB_DISABLE_TELEMETRY": 1,
    "HF_HUB_DISABLE_UPDATE_CHECK": 1,
    "HF_HUB_DISABLE_PROGRESS_BARS": 1,
    "DO_NOT_TRACK": 1,
}
# Each peer's command, and how it is called in the tables.
PEERS = {
    "nginx": "nginx",
    "docker-registry": "docker-registry",
    "wrk": "wrk",
    "hf": "hf download",
    "oci-modelcar": "oci-modelcar",
    "olah-cli": "olah",
    "ctr-remote": "ctr-remote",
    "containerd": "containerd",
}


def find(command):
    """Where a command is, or None."""
    for folder in (VENV / "bin", CACHE / "venv/bin"):
        if (folder / command).exists():
            return folder / command
    return shutil.which(command)


def missing(*commands):
    """What is not there of these, in words; empty if all are."""
    gone = [PEERS.get(command, command) for command in commands if not find(command)]
    return f"not installed: {', '.join(gone)}" if gone else ""


def install():
    """As root on Debian: the packages, without starting any service. Anywhere: the Python programs, into a folder of their own."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        policy = pathlib.Path("/usr/sbin/policy-rc.d")
        ours = not policy.exists()
        if ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            subprocess.run(["apt-get", "update", "-q"], check=True)
            options = ["-qy", "--no-upgrade", "--no-install-recommends"]
            subprocess.run(["apt-get", "install", *options, *DEBIAN], check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        finally:
            if ours:
                policy.unlink()
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    subprocess.run([VENV / "bin/pip", "install", "-q", *PYPI], check=True)


def versions():
    """What is installed, by the names of the tables; None for what is not."""
    told = {name: None for name in PEERS.values()}
    told["nginx"] = find("nginx") and output("nginx", "-v").rpartition("/")[2]
    told["docker-registry"] = find("docker-registry") and package("docker-registry")
    told["wrk"] = find("wrk") and output("wrk", "-v").split()[1]
    told["hf download"] = find("hf") and f"huggingface_hub {distribution('hf', 'huggingface_hub')}"
    told["oci-modelcar"] = find("oci-modelcar") and distribution("oci-modelcar", "oci-modelcar")
    told["olah"] = find("olah-cli") and distribution("olah-cli", "olah")
    told["ctr-remote"] = find("ctr-remote") and f"stargz-snapshotter {package('stargz-snapshotter')}"
    told["containerd"] = find("containerd") and output("containerd", "--version").split()[2]
    told["curl"] = output("curl", "--version").split()[1]
    return told


def output(*command):
    """What a command says, however it ends."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=measure.environment()).stdout.strip()


def package(name):
    return output("dpkg-query", "-W", "-f", "${Version}", name)


def distribution(command, name):
    """The version of a Python package, by the interpreter of one of its commands."""
    python = pathlib.Path(find(command)).parent / "python3"
    ask = f"from importlib.metadata import version; print(version({name!r}))"
    return output(python if python.exists() else "python3", "-c", ask).splitlines()[-1]


def hf_download(hub, home, repository, to, *more):
    """`hf download` into a folder."""
    command = [find("hf"), "download", repository, "--local-dir", to, *more]
    return measure.measured(*command, env=measure.environment(**QUIET, HF_ENDPOINT=hub.url, HF_HOME=home), stderr=subprocess.STDOUT)


def modelcar(hub, home, repository, registry, spool):
    """`oci-modelcar push` into a registry, all files of the repository."""
    host = re.sub("^http://", "", registry.url)
    command = [find("oci-modelcar"), "push", "--hf-repo", repository, "--hf-endpoint", hub.url, "--registry", host]
    command += ["--target-repo", repository, "--target-tag", "main", "--allow-patterns", "*", "--spool-dir", spool]
    return measure.measured(*command, env=measure.environment(**QUIET, HF_HOME=home, TMPDIR=home), stderr=subprocess.STDOUT)


def olah(work, hub, cdn):
    """olah as a mirror of the simulator, whose large files are at `cdn` (host and port)."""
    folder = work.path / "olah"
    folder.mkdir()
    host, port = f"127.0.0.1:{measure.free_port()}", measure.free_port()
    script = pathlib.Path(__file__).with_name("paths_info.py")
    front = measure.Server(work, "front", [sys.executable, script, host.rpartition(":")[2], re.sub("^http://", "", hub.url)], f"http://{host}")
    front.wait_for("/api/models/org/medium")
    words = ["--host", "127.0.0.1", "--port", port, "--hf-scheme", "http", "--hf-netloc", host, "--hf-lfs-netloc", cdn]
    words += ["--mirror-netloc", f"127.0.0.1:{port}", "--mirror-lfs-netloc", f"127.0.0.1:{port}"]
    words += ["--repos-path", folder / "repos", "--log-path", folder / "logs"]
    server = measure.Server(work, "olah", [find("olah-cli"), *words], f"http://127.0.0.1:{port}", **QUIET, HF_HOME=folder)
    server.wait_for("/api/models/org/large")
    return front, server


CONTAINERD = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
"""


class Converter:
    """`ctr-remote image convert --estargz` with a containerd of its own, whose folders all lie in the scratch folder."""

    def __init__(self, work, image):
        """`image`: an OCI archive with one image, named `peers:plain`."""
        folder = work.path / "containerd"
        folder.mkdir()
        (folder / "config.toml").write_text(CONTAINERD.format(folder=folder))
        self.socket = folder / "sock"
        self.server = measure.Server(work, "containerd", ["containerd", "--config", folder / "config.toml"], f"unix://{self.socket}")
        for _ in range(200):
            if subprocess.run(self.command("images", "ls", "-q"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                break
            measure.pause()
        else:
            measure.fail(f"containerd did not start: {self.server.said()}")
        self.call("images", "import", "--no-unpack", image)

    def command(self, *words):
        return [str(word) for word in ("ctr-remote", "-a", self.socket, "-n", "peers", *words)]

    def call(self, *words):
        return measure.measured(*self.command(*words), stderr=subprocess.STDOUT)

    def convert(self):
        """One conversion with its defaults; what it made is removed again."""
        cpu = self.server.cpu()
        result = self.call("images", "convert", "--estargz", "--oci", "localhost/peers:plain", "localhost/peers:estargz")
        result["cpu"] += self.server.cpu() - cpu
        self.call("images", "rm", "--sync", "localhost/peers:estargz")
        return result
