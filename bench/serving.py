"""What bench/warm and bench/peers share: an image in the cache, other servers of the same blobs, and clients that load them."""

import json
import os
import re
import subprocess
import sys

import measure

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SLICE = 64 << 10
CONNECTIONS = 16

# Reads one answer to its end into one buffer, and tells how many bytes came, and from when to when on the machine's clock.
READER = """
import socket, sys, time
host, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
begun = time.monotonic()
with socket.create_connection((host, port)) as connection:
    connection.sendall(f'GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n'.encode())
    buffer, count = memoryview(bytearray(1 << 20)), 0
    while got := connection.recv_into(buffer):
        if count == 0 and not bytes(buffer[:12]).startswith(b'HTTP/1.1 200'):
            sys.exit('not a 200')
        count += got
print(count, begun, time.monotonic())
"""

# What wrk asks, and its figures as one line of JSON.
SCRIPT = """
local size, slice = {size}, {slice}
-- Made beforehand, so that the client takes as little of the cores as it can.
local made, next = {{}}, 0
function init(args)
  math.randomseed(1)
  wrk.headers["Accept"] = "{accept}"
  for i = 1, slice > 0 and 4096 or 1 do
    if slice > 0 then
      local at = math.random(0, size - slice)
      wrk.headers["Range"] = string.format("bytes=%d-%d", at, at + slice - 1)
    end
    made[i] = wrk.format("GET")
  end
end
function request()
  next = next % #made + 1
  return made[next]
end
function done(summary, latency, requests)
  local e = summary.errors
  print(string.format('JSON {{"requests":%d,"us":%d,"bytes":%d,"errors":%d,"p50":%d,"p99":%d}}', summary.requests, summary.duration,
    summary.bytes, e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""

# The limit: sendfile, no log, files kept open.
NGINX = """
daemon off;
{user}
worker_processes auto;
pid {work}/nginx.pid;
error_log {work}/nginx-error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    client_body_temp_path {work}/nginx-1;
    proxy_temp_path {work}/nginx-2;
    fastcgi_temp_path {work}/nginx-3;
    uwsgi_temp_path {work}/nginx-4;
    scgi_temp_path {work}/nginx-5;
    open_file_cache max=100;
    server {{
        listen 127.0.0.1:{port};
{locations}
    }}
}}
"""


REGISTRY = """
version: 0.1
log: {{ level: error, accesslog: {{ disabled: true }} }}
storage:
  filesystem: {{ rootdirectory: {data} }}
  cache: {{ blobdescriptor: inmemory }}
http: {{ addr: 127.0.0.1:{port} }}
"""


class Image:
    """A cached image: the paths of its parts, and where they lie in the data folder."""

    def __init__(self, proxy, data, name):
        self.name, base = name, f"/v2/{name}"
        self.by_tag = f"{base}/manifests/main"
        self.blobs = data / "blobs/sha256"
        # As it is on the disk: that is what must be served.
        index = measure.get(proxy.url + self.by_tag, [f"Accept: {INDEX}"])
        self.index = next(blob for blob in self.blobs.iterdir() if blob.stat().st_size == len(index) and blob.read_bytes() == index)
        self.manifests = [manifest["digest"] for manifest in json.loads(index)["manifests"]]
        self.by_digest = f"{base}/manifests/{self.manifests[0]}"
        layer = max(self.manifest(self.manifests[0])["layers"], key=lambda layer: layer["size"])
        self.blob, self.size = f"{base}/blobs/{layer['digest']}", layer["size"]
        self.blob_file = self.file(layer["digest"])

    def file(self, digest):
        return self.blobs / digest.removeprefix("sha256:")

    def manifest(self, digest):
        return json.loads(self.file(digest).read_bytes())

    def parts(self):
        """The digests of configs and layers."""
        manifests = [self.manifest(digest) for digest in self.manifests]
        return sorted({part["digest"] for manifest in manifests for part in [manifest["config"], *manifest["layers"]]})

    def same(self, *servers):
        """Ends with a message unless all servers give the same documents."""
        for path, accept in ((self.by_tag, INDEX), (self.by_digest, MANIFEST)):
            if len({measure.get(server.url + path, [f"Accept: {accept}"]) for server in servers}) != 1:
                measure.fail(f"the servers differ about {path}")


def nginx(work, image):
    """nginx on the very files of the data folder."""
    files = {
        image.blob: (image.blob_file, "application/octet-stream"),
        image.by_tag: (image.index, INDEX),
        image.by_digest: (image.file(image.manifests[0]), MANIFEST),
    }
    locations = (f'        location = "{path}" {{ alias "{file}"; default_type "{kind}"; }}' for path, (file, kind) in files.items())
    port = measure.free_port()
    # Its workers must read what only this user may.
    user = "user root;" if os.geteuid() == 0 else ""
    config = work.path / "nginx.conf"
    config.write_text(NGINX.format(work=work.path, port=port, user=user, locations="\n".join(locations)))
    command = ["nginx", "-e", work.path / "nginx-error.log", "-p", work.path, "-c", config]
    server = measure.Server(work, "nginx", command, f"http://127.0.0.1:{port}")
    server.wait_for(image.by_tag)
    return server


def nginx_version():
    return measure.run("nginx", "-v", stderr=subprocess.STDOUT)[2].decode().strip().rpartition("/")[2]


def registry(work, name="registry"):
    """docker-registry with nothing in it, no log of requests, and its cache of descriptors in memory."""
    port = measure.free_port()
    config = work.path / f"{name}.yml"
    config.write_text(REGISTRY.format(data=work.path / name, port=port))
    server = measure.Server(work, name, ["docker-registry", "serve", config], f"http://127.0.0.1:{port}", OTEL_TRACES_EXPORTER="none")
    server.wait_for("/v2/")
    return server


def push(server, image):
    """An image from the data folder into a registry, under the same name."""
    base = f"{server.url}/v2/{image.name}"
    for digest in image.parts():
        head = measure.run("curl", "-fsS", "-D", "-", "-o", "/dev/null", "-X", "POST", f"{base}/blobs/uploads/")[2].decode()
        place = re.search(r"^location: *(\S+)", head, re.IGNORECASE | re.MULTILINE)[1]
        binary = "Content-Type: application/octet-stream"
        measure.run("curl", "-fsS", "-H", binary, "-T", image.file(digest), f"{place}&digest={digest}")
    documents = [(digest, MANIFEST, image.file(digest)) for digest in image.manifests]
    for reference, kind, file in (*documents, ("main", INDEX, image.index)):
        measure.run("curl", "-fsS", "-H", f"Content-Type: {kind}", "-T", file, f"{base}/manifests/{reference}")


def whole(server, image, connections):
    """The whole blob, by so many readers at once."""
    host, port = re.match(r"http://([\d.]+):(\d+)", server.url).groups()
    command = [sys.executable, "-c", READER, host, port, image.blob]
    cpu = server.cpu()
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, env=measure.environment()) for _ in range(connections)]
    told = [reader.communicate()[0].split() for reader in readers]
    if any(reader.returncode for reader in readers) or any(int(count) < image.size for count, _, _ in told):
        measure.fail("a reader failed")
    total = image.size * connections
    wall = max(float(end) for _, _, end in told) - min(float(begun) for _, begun, _ in told)
    return {"rate": total / wall / 1e9, "cost": (server.cpu() - cpu) / total * 1e9}


def load(server, path, seconds, accept="*/*", size=0):
    """Requests by wrk: slices out of `size` bytes if that is told, else the whole."""
    script = server.work.path / "wrk.lua"
    script.write_text(SCRIPT.format(size=size, slice=SLICE if size else 0, accept=accept))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, server.url + path]
    cpu = server.cpu()
    _, _, out = measure.run(*command)
    cpu = server.cpu() - cpu
    told = json.loads(re.search(r"^JSON (.*)$", out.decode(), re.MULTILINE)[1])
    if told["errors"] or not told["requests"]:
        measure.fail(f"{server.url}{path}: {out.decode()}")
    if size and told["bytes"] / told["requests"] < SLICE:
        measure.fail("a range was not served")
    return {
        "rate": told["requests"] / told["us"] * 1e6,
        "cost": cpu / told["requests"] * 1e6,
        "p50": told["p50"] / 1e3,
        "p99": told["p99"] / 1e3,
    }
