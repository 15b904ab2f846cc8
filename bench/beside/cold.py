"""A cold image: hf-oci beside the parts of its work and beside the other ways to an image."""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import time

import filling
import measure
import serving

from . import tools

GIB = 1 << 30
# What writes nothing.
READERS = ("fused kernel", "four passes of sha2", "CRC-32", "socket read", "olah, again")
HF_WORKERS = 16


class Cold:
    """All cases on one simulator. Sizes in GiB: `size` of the large file, `peer_size` of the one for slower programs, `convert_size` of
    the one for ctr-remote."""

    def __init__(self, work, args):
        self.work, self.args = work, args
        self.sizes = {"large": measure.whole_chunks(args.size), "medium": measure.whole_chunks(args.peer_size)}
        self.repos = work.path / "repos"
        measure.progress(f"cold: making {sum(self.sizes.values()) / GIB:.2f} GiB of weights")
        for name, size in self.sizes.items():
            measure.weights_file(self.file(name), size)
        filling.small_files(self.repos / "models/org/small")
        self.hub = work.hub(self.repos)
        self.home = work.path / "home"
        self.home.mkdir()
        self.notes = {}
        self.converter = None

    @staticmethod
    def room(args):
        """Bytes of disk that it takes at most."""
        return int((args.size * 2.1 + args.peer_size * 4.2 + args.convert_size * 4.2 + 1) * GIB)

    def cases(self):
        """Name, bytes, and what measures it once; those that cannot be measured are left out, and `notes` says why."""
        large, medium = self.sizes["large"], self.sizes["medium"]
        small = filling.SMALL_FILES * filling.SMALL_BYTES
        cases = [
            ("hf-oci", large, lambda: self.fill("large", large)),
            ("fused kernel", large, lambda: self.limit("fused", large)),
            ("four passes of sha2", large, lambda: self.limit("sha2", large)),
            ("CRC-32", large, lambda: self.limit("crc", large)),
            ("socket read", large, self.read),
            ("write", large, self.write),
            ("plain download", large, self.download),
            ("curl + sha256sum", large, self.curl),
            ("hf download", large, lambda: self.hf("large")),
            ("hf-oci, medium", medium, lambda: self.fill("medium", medium)),
            ("oci-modelcar", medium, self.modelcar),
            ("olah", medium, lambda: self.olah(False)),
            ("olah, again", medium, lambda: self.olah(True)),
            ("ctr-remote", measure.whole_chunks(self.args.convert_size), self.convert),
            ("hf-oci, small files", small, lambda: self.fill("small", small)),
            ("hf download, small files", small, lambda: self.hf("small", "--max-workers", HF_WORKERS)),
        ]
        needs = {
            "hf download": ["hf"],
            "hf download, small files": ["hf"],
            "oci-modelcar": ["oci-modelcar", "docker-registry"],
            "olah": ["olah-cli"],
            "olah, again": ["olah-cli"],
            "ctr-remote": ["ctr-remote", "containerd"],
        }
        self.notes = {name: gone for name, commands in needs.items() if (gone := tools.missing(*commands))}
        if os.geteuid() != 0:
            self.notes.setdefault("ctr-remote", "not measured: containerd needs root")
        return [case for case in cases if case[0] not in self.notes]

    def file(self, name):
        return self.repos / f"models/org/{name}/model.safetensors"

    def url(self, name):
        return f"{self.hub.url}/org/{name}/resolve/main/model.safetensors"

    def cdn(self, name):
        """Host and port, and path, where the simulator sends who asks for a large file."""
        target = measure.run("curl", "-fsS", "-o", "/dev/null", "-w", "%{redirect_url}", self.url(name))[2].decode()
        return re.fullmatch(r"http://([\d.]+:\d+)(/.*)", target).groups()

    def fill(self, name, size):
        return filling.fill(self.work, self.hub, [name], size, self.args.proxy)

    def limit(self, *words):
        done = measure.measured(measure.LIMITS, *words)
        return {"wall": done["wall"], "cpu": done["cpu"]}

    def read(self):
        return self.limit("read", *self.cdn("large"))

    def write(self):
        path = self.work.path / "written"
        result = self.limit("write", path, self.sizes["large"])
        path.unlink()
        return result

    def download(self):
        return filling.download(self.url("large"), self.work.path / "download", self.sizes["large"], 1)

    def curl(self):
        """A download without fsync, and the digest of the file."""
        path = self.work.path / "download"
        steps = [measure.measured("curl", "-fsSL", "-o", path, self.url("large")), measure.measured("sha256sum", path)]
        path.unlink()
        return {key: sum(step[key] for step in steps) for key in ("wall", "cpu")}

    def hf(self, name, *more):
        to = self.work.path / "hf"
        result = tools.hf_download(self.hub, self.home, f"org/{name}", to, *more)
        came = sum(file.stat().st_size for file in to.rglob("*") if file.is_file())
        shutil.rmtree(to)
        if came < (self.sizes.get(name) or filling.SMALL_FILES * filling.SMALL_BYTES):
            measure.fail("hf download: a file is missing")
        return without_output(result)

    def modelcar(self):
        """Pushed into an empty docker-registry; the seconds of processor are those of both."""
        registry, spool = serving.registry(self.work, "modelcar"), self.work.path / "spool"
        try:
            cpu = registry.cpu()
            result = tools.modelcar(self.hub, self.home, "org/medium", registry, spool)
            result["cpu"] += registry.cpu() - cpu
        finally:
            registry.stop()
        stored = sum(file.stat().st_size for file in (self.work.path / "modelcar").rglob("data"))
        if stored < self.sizes["medium"]:
            measure.fail("oci-modelcar: the image is not whole")
        for folder in (spool, self.work.path / "modelcar"):
            shutil.rmtree(folder)
        return without_output(result)

    def olah(self, again):
        """curl through olah, its cache empty or filled by the same request; the seconds of processor are olah's."""
        front, server = tools.olah(self.work, self.hub, self.cdn("medium")[0])
        try:
            url = f"{server.url}/org/medium/resolve/main/model.safetensors"
            for _ in range(2 if again else 1):
                cpu, begun = server.cpu(), time.monotonic()
                came = measure.run("curl", "-fsSL", "-o", "/dev/null", "-w", "%{size_download}", url)[2]
                result = {"wall": time.monotonic() - begun, "cpu": server.cpu() - cpu, "peak": server.peak()}
                if int(came) != self.sizes["medium"]:
                    measure.fail("olah: another size")
        finally:
            server.stop()
            front.stop()
        shutil.rmtree(self.work.path / "olah")
        return result

    def convert(self):
        if not self.converter:
            archive = self.work.path / "plain.tar"
            plain_image(archive, self.file("medium"), measure.whole_chunks(self.args.convert_size))
            self.converter = tools.Converter(self.work, archive)
            archive.unlink()
        return without_output(self.converter.convert())

    def run(self):
        cases = self.cases()
        results = {name: {"bytes": size, "runs": []} for name, size, _ in cases}
        for turn in range(self.args.runs):
            for name, size, case in cases:
                measure.settle()
                if name not in READERS:
                    measure.fresh_pages(self.work.path / "pages", size)
                result = case()
                results[name]["runs"].append(result)
                measure.progress(f"cold, run {turn + 1}: {name}: {result['wall']:.2f} s, {result['cpu']:.2f} s of processor")
        if self.converter:
            self.converter.server.stop()
        self.hub.stop()
        return {**results, **{name: {"note": note} for name, note in self.notes.items()}}


def without_output(result):
    return {key: result[key] for key in ("wall", "cpu", "peak")}


def architecture():
    """This machine's, as images call it: ctr-remote converts no other."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def plain_image(path, source, size):
    """An OCI archive of one image with one layer, a plain tar of the first `size` bytes of a file."""
    layer = path.with_suffix(".layer")
    with tarfile.open(layer, mode="w") as tar, open(source, "rb") as file:
        tar.addfile(entry("model.safetensors", size), file)
    with open(layer, "rb") as file:
        tarred = {"digest": f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", "size": layer.stat().st_size}
    blobs = {}

    def blob(value):
        content = json.dumps(value).encode()
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}", "size": len(content)}

    kind = "application/vnd.oci.image"
    config = {"architecture": architecture(), "os": "linux", "rootfs": {"type": "layers", "diff_ids": [tarred["digest"]]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": {"mediaType": f"{kind}.config.v1+json", **blob(config)},
        "layers": [{"mediaType": f"{kind}.layer.v1.tar", **tarred}],
    }
    name = {"io.containerd.image.name": "localhost/peers:plain", "org.opencontainers.image.ref.name": "plain"}
    listed = {"mediaType": f"{kind}.manifest.v1+json", **blob(manifest), "annotations": name}
    files = {**blobs, "oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode()
    with tarfile.open(path, "w") as tar:
        tar.add(layer, f"blobs/sha256/{tarred['digest'].removeprefix('sha256:')}")
        for inside, content in files.items():
            tar.addfile(entry(inside, len(content)), io.BytesIO(content))
    layer.unlink()


def entry(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    return info
