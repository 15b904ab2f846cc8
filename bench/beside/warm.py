"""A cached image: hf-oci beside nginx on the same files, and beside docker-registry with the same image."""

import shutil

import measure
import serving

from . import tools

NAME = "org/large"


class Warm:
    """One image in three servers; everything that is served stays in the page cache."""

    def __init__(self, work, args):
        self.work, self.args = work, args
        size = measure.whole_chunks(args.warm_size)
        repos, self.data = work.path / "warm-repos", work.path / "warm-data"
        measure.progress(f"warm: making {size / (1 << 30):.2f} GiB of random bytes, filling their image, pushing it to docker-registry")
        measure.random_file(repos / "models" / NAME / "model.safetensors", size)
        hub = work.hub(repos)
        # Like nginx and docker-registry here, no log of requests. A tag is not asked for again while this runs.
        proxy = work.proxy(hub, self.data, "--log=warn", "--tag-ttl=12h", *args.proxy)
        self.servers, self.notes = {"hf-oci": proxy}, {}
        self.image = serving.Image(proxy, self.data, NAME)
        if gone := tools.missing("nginx"):
            self.notes["nginx"] = gone
        else:
            self.servers["nginx"] = serving.nginx(work, self.image)
        if gone := tools.missing("docker-registry"):
            self.notes["docker-registry"] = gone
        else:
            self.servers["docker-registry"] = registry = serving.registry(work)
            serving.push(registry, self.image)
        self.image.same(*self.servers.values())
        hub.stop()
        shutil.rmtree(repos)

    @staticmethod
    def room(args):
        """Bytes of disk that it takes at most."""
        return int((args.warm_size * 3.1 + 0.5) * (1 << 30))

    def cases(self):
        image = self.image
        return {
            "blob, 1": lambda server: serving.whole(server, image, 1),
            "blob, 4": lambda server: serving.whole(server, image, 4),
            "ranges": lambda server: self.load(server, image.blob, size=image.size),
            "index by tag": lambda server: self.load(server, image.by_tag, accept=serving.INDEX),
            "manifest by digest": lambda server: self.load(server, image.by_digest, accept=serving.MANIFEST),
        }

    def load(self, server, path, **more):
        return serving.load(server, path, self.args.seconds, **more)

    def run(self):
        cases = self.cases()
        if gone := tools.missing("wrk"):
            self.notes.update({f"{side}, {case}": gone for side in self.servers for case in list(cases)[2:]})
            cases = dict(list(cases.items())[:2])
        results = {f"{side}, {case}": {"runs": []} for side in self.servers for case in cases}
        for turn in range(self.args.runs):
            for case, work in cases.items():
                for side, server in self.servers.items():
                    result = work(server)
                    results[f"{side}, {case}"]["runs"].append(result)
                    measure.progress(f"warm, run {turn + 1}: {side}, {case}: {result['rate']:,.2f} a second")
        for server in self.servers.values():
            server.stop()
        for folder in (self.data, self.work.path / "registry"):
            shutil.rmtree(folder, ignore_errors=True)
        return {**results, **{name: {"note": note} for name, note in self.notes.items()}}
