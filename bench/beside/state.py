"""What grows with the cache and with models: memory, start-up, and the cost of a GiB."""

import json
import shutil
import time
import urllib.request

import filling
import measure
import serving

GIB = 1 << 30
IDLE_IMAGES, START_ENTRIES = 10_000, 100_000
# So many requests are answered before the memory of an idle server is read, for different images.
ASKED = 1000


def sparse_file(path, size):
    """Some bytes in every MiB, each other ones, and holes between: it takes hardly any disk, and whoever reads it gets every byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        for at in range(0, size, 1 << 20):
            file.seek(at + at // 257 % 4096)
            file.write(at.to_bytes(8, "little") * 64)
        file.truncate(size)


class Memory:
    """Three models filled at once, and a server that does nothing with many images in its cache."""

    def __init__(self, work, args):
        self.work, self.args = work, args

    @staticmethod
    def room(args):
        return int((args.peer_size * 3.1 + 1) * GIB)

    def run(self):
        return {"3 models at once": self.three(), f"{IDLE_IMAGES} images, idle": self.idle()}

    def three(self):
        size = measure.whole_chunks(self.args.peer_size)
        repos, models = self.work.path / "three", ("one", "two", "three")
        for at, model in enumerate(models):
            # Of different lengths: the same file would be one layer.
            sparse_file(repos / f"models/org/{model}/model.safetensors", size + at * measure.CHUNK)
        hub = self.work.hub(repos)
        runs = []
        for turn in range(self.args.runs):
            measure.settle()
            runs.append(filling.fill(self.work, hub, models, size * 3, self.args.proxy))
            measure.progress(f"memory, run {turn + 1}: 3 models at once: {runs[-1]['peak'] >> 20} MiB, {runs[-1]['wall']:.2f} s")
        hub.stop()
        shutil.rmtree(repos)
        return {"bytes": size * 3, "runs": runs}

    def idle(self):
        data = many_images(self.work, IDLE_IMAGES, self.args.proxy)
        runs = []
        for turn in range(self.args.runs):
            proxy = offline(self.work, data, self.args.proxy)
            begun = proxy.memory()
            for at in range(0, IDLE_IMAGES, IDLE_IMAGES // ASKED):
                ask(proxy, at)
            # Time for what has ended to be given back.
            time.sleep(2)
            runs.append({"begun": begun, "idle": proxy.memory(), "peak": proxy.peak()})
            proxy.stop()
            told = ", ".join(f"{key} {value / (1 << 20):.1f} MiB" for key, value in runs[-1].items())
            measure.progress(f"memory, run {turn + 1}: {IDLE_IMAGES} images: {told}")
        shutil.rmtree(data)
        return {"runs": runs}


class Scaling:
    """Start-up with a large cache, and the cost of a GiB in files of different sizes."""

    def __init__(self, work, args):
        self.work, self.args = work, args

    @staticmethod
    def room(args):
        return int((args.long_size * 1.1 if args.long else args.size) * GIB) + 2 * GIB

    def run(self):
        return {**self.start(), **self.sizes()}

    def start(self):
        data = many_images(self.work, START_ENTRIES, self.args.proxy)
        runs = []
        for turn in range(self.args.runs):
            begun = time.monotonic()
            proxy = offline(self.work, data, self.args.proxy)
            ask(proxy, START_ENTRIES - 1)
            wall = time.monotonic() - begun
            runs.append({"wall": wall, "cpu": proxy.cpu(), "peak": proxy.peak()})
            proxy.stop()
            measure.progress(f"scaling, run {turn + 1}: start-up with {START_ENTRIES} entries: {wall:.3f} s")
        shutil.rmtree(data)
        return {f"start-up, {START_ENTRIES} entries": {"runs": runs}}

    def sizes(self):
        sizes = {"1 GiB": 1, "16 GiB": self.args.long_size} if self.args.long else {"1 GiB": 1, "4 GiB": self.args.size}
        if self.args.quick:
            sizes = {name: size / 8 for name, size in sizes.items()}
        repos, bytes_of = self.work.path / "sizes", {}
        for name, gib in sizes.items():
            bytes_of[name] = measure.whole_chunks(gib)
            sparse_file(repos / f"models/org/{model(name)}/model.safetensors", bytes_of[name])
        hub = self.work.hub(repos)
        results = {name: {"bytes": size, "runs": []} for name, size in bytes_of.items()}
        for turn in range(self.args.runs):
            for name, size in bytes_of.items():
                measure.settle()
                result = filling.fill(self.work, hub, [model(name)], size, self.args.proxy)
                results[name]["runs"].append(result)
                measure.progress(f"scaling, run {turn + 1}: {name}: {result['cpu'] / size * GIB:.3f} s of processor for a GiB")
        hub.stop()
        shutil.rmtree(repos)
        if not self.args.long:
            results["16 GiB"] = {"note": "not measured; --long does"}
        return results


def model(name):
    return name.lower().replace(" ", "-")


def name(at):
    return f"org/model-{at:06}"


def ask(proxy, at):
    """The index of an image that is in the cache."""
    request = urllib.request.Request(f"{proxy.url}/v2/{name(at)}/manifests/main", headers={"Accept": serving.INDEX})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return answer.read()


def offline(work, data, words):
    """hf-oci on a cache, without an upstream."""
    command = [measure.HF_OCI, "serve", "--listen", "127.0.0.1:0", "--data-dir", data, "--offline", "--log=warn", *words]
    return measure.Server(work, "hf-oci", command)


def many_images(work, count, words):
    """A data folder with so many images. One is filled; the others are the same under other names, as index.json lists them: their
    documents are the same files, all else is there for each. The index over them is made by hf-oci at its first start, which is not
    measured."""
    measure.progress(f"making a cache of {count} images")
    repos, data = work.path / "tiny", work.path / "many"
    config = repos / "models/org/model-000000/config.json"
    config.parent.mkdir(parents=True)
    config.write_text("{}")
    hub = work.hub(repos)
    proxy = work.proxy(hub, data, *words)
    measure.get(f"{proxy.url}/v2/{name(0)}/manifests/main", [f"Accept: {serving.INDEX}"])
    proxy.stop()
    hub.stop()
    shutil.rmtree(repos)
    index = json.loads((data / "index.json").read_bytes())
    text = json.dumps(index["manifests"][0])
    index["manifests"] = [json.loads(text.replace(name(0), name(at))) for at in range(count)]
    (data / "index.json").write_text(json.dumps(index))
    shutil.rmtree(data / "index", ignore_errors=True)
    begun = time.monotonic()
    proxy = offline(work, data, words)
    ask(proxy, count - 1)
    proxy.stop()
    measure.progress(f"its index was made in {time.monotonic() - begun:.1f} s")
    return data
