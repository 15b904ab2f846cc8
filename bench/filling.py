"""What bench/cold and bench/peers share: cold images by hf-oci, and plain downloads of the same files."""

import os
import shutil
import subprocess
import time

import measure

SMALL_FILES, SMALL_BYTES = 2000, 20 << 10
ACCEPT = "Accept: application/vnd.oci.image.index.v1+json"


def small_files(folder):
    """Many small files, in a few folders."""
    for at in range(SMALL_FILES):
        measure.random_file(folder / f"data/{at % 20:02}/{at:04}.txt", SMALL_BYTES)


def fill(work, hub, models, size, words=()):
    """hf-oci with an empty data folder, until the indexes of all these models are there, asked for at once; `size` bytes in all."""
    data = work.path / "data"
    proxy = work.proxy(hub, data, *words)
    cpu, begun = proxy.cpu(), time.monotonic()
    asked = [ask(proxy, model) for model in models]
    answers = [curl.communicate()[0] for curl in asked]
    wall = time.monotonic() - begun
    result = {"wall": wall, "cpu": proxy.cpu() - cpu, "peak": proxy.peak()}
    blobs = sum(blob.stat().st_size for blob in (data / "blobs/sha256").iterdir())
    if blobs < size or not all(answer.startswith(b'{"schemaVersion":2') for answer in answers):
        measure.fail(f"the image is not whole: {proxy.said()}")
    proxy.stop()
    shutil.rmtree(data)
    return result


def ask(proxy, model):
    command = ["curl", "-fsS", "-m", "1800", "-H", ACCEPT, f"{proxy.url}/v2/org/{model}/manifests/main"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=measure.environment())


def download(url, path, size, streams):
    """curl, each stream a range of one file, then fsync: hf-oci does not answer before its blob is on the disk either."""
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
        times, begun = os.times(), time.monotonic()
        running = [stream(url, path, at, size // streams, at + 1 == streams) for at in range(streams)]
        if any([curl.wait() for curl in running]):
            measure.fail("a download failed")
        network = time.monotonic() - begun
        os.fsync(file.fileno())
        wall, after = time.monotonic() - begun, os.times()
    if path.stat().st_size != size:
        measure.fail("a download has another size")
    path.unlink()
    cpu = after.children_user + after.children_system - times.children_user - times.children_system
    return {"wall": wall, "cpu": cpu, "network": network}


def stream(url, path, at, length, last):
    """curl writing one range to its place."""
    with open(path, "r+b", buffering=0) as out:
        out.seek(at * length)
        end = "" if last else (at + 1) * length - 1
        command = ["curl", "-fsSL", "-r", f"{at * length}-{end}", url]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, env=measure.environment())


def download_small(work, hub, folder, streams):
    """curl with so many transfers at once over kept connections, into a folder."""
    out, lines = work.path / "small", []
    for path in sorted(folder.rglob("*.txt")):
        inside = path.relative_to(folder)
        lines.append(f'url = "{hub.url}/org/small/resolve/main/{inside}"\noutput = "{out / inside}"\n')
    config = work.path / "small.curl"
    config.write_text("".join(lines))
    words = ["--create-dirs", "--parallel", "--parallel-max", streams, "--no-progress-meter", "-fSL", "-K", config]
    done = measure.measured("curl", *words)
    if sum(1 for _ in out.rglob("*.txt")) != SMALL_FILES:
        measure.fail("a file is missing")
    shutil.rmtree(out)
    return {"wall": done["wall"], "cpu": done["cpu"]}
