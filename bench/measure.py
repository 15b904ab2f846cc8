"""What the scripts of bench/ share: servers on loopback, clocks, tables, and a clean-up that leaves nothing behind."""

import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
# As in tests/e2e: other binaries than those of the target folder.
HF_OCI = pathlib.Path(os.environ.get("HF_OCI", TARGET / "hf-oci"))
HUB = pathlib.Path(os.environ.get("HUB", TARGET / "examples/hub"))
LIMITS = pathlib.Path(os.environ.get("LIMITS", TARGET / "examples/limits"))
TICKS = os.sysconf("SC_CLK_TCK")
CHUNK = 4 << 20
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def fail(message):
    sys.exit(f"error: {message}")


def need(**packages):
    """Ends with a message unless every command is there; `packages` tells which Debian package has it."""
    missing = sorted({package for command, package in packages.items() if not shutil.which(command)})
    if missing:
        fail(f"commands are missing; on Debian: apt-get install {' '.join(missing)}")
    for program in (HF_OCI, HUB):
        if not program.exists():
            fail(f"{program} is not there; run: cargo build --release --bins --examples")


def environment(**more):
    """The caller's, without what would send loopback requests elsewhere or change a server's settings, and with `more`."""
    dropped = re.compile(r"(HF_|HUGGING_FACE_|OCI_)|(http|https|all|no)_proxy$", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not dropped.match(name)}
    return {**kept, **{name: str(value) for name, value in more.items()}}


def scratch(folder, room):
    """The folder for scratch files, if it has room for so many bytes beside what hf-oci leaves free (cache.min_free)."""
    folder = folder or os.environ.get("TMPDIR", "/var/tmp")
    usage = shutil.disk_usage(folder)
    needed = room + usage.total // 20
    if usage.free < needed:
        fail(f"{folder} has {usage.free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed; --dir names another folder")
    return folder


def end(*_):
    """A signal is an ordinary end, so that it cleans up; nothing interrupts that."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    sys.exit(1)


class Work:
    """A scratch folder and the processes started in it. Both go at the end, whatever that is."""

    def __init__(self, folder, room):
        for number in SIGNALS:
            signal.signal(number, end)
        folder = scratch(folder, room)
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="hf-oci-bench.", dir=folder))
        self.servers = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in list(self.servers):
            server.stop()
        shutil.rmtree(self.path, ignore_errors=True)

    def hub(self, repositories):
        """The simulator on a folder of repositories."""
        return Server(self, "hub", [HUB, repositories])

    def proxy(self, hub, data, *more):
        """hf-oci with the data folder `data`."""
        command = [HF_OCI, "serve", "--listen", "127.0.0.1:0", "--data-dir", data, "--upstream", hub.url]
        return Server(self, "hf-oci", [*command, *more])


class Server:
    """A server that runs until it is stopped, and its clocks."""

    def __init__(self, work, name, command, url=None, **more):
        self.work = work
        self.log = work.path / f"{name}.log"
        with open(self.log, "wb") as log:
            command = [str(word) for word in command]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(**more))
        work.servers.append(self)
        self.url = url or self.address()

    def address(self):
        """Waits for the line that tells it."""
        end = time.monotonic() + 600
        while time.monotonic() < end:
            told = re.search(r"listening on (http://127\.0\.0\.1:\d+)", self.log.read_text(errors="replace"))
            if told:
                return told[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        fail(f"a server did not start: {self.said()}")

    def wait_for(self, path):
        """Waits for an answer of a server that tells nothing."""
        end = time.monotonic() + 30
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.url + path):
                    return
            except OSError:
                time.sleep(0.05)
        fail(f"a server did not start: {self.said()}")

    def said(self):
        """The end of its log."""
        return self.log.read_text(errors="replace")[-500:]

    def family(self):
        """Its processes: itself and its children."""
        pid = self.process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [str(pid), *children]

    def cpu(self):
        """Seconds of processor that its processes have taken."""
        ticks = 0
        for pid in self.family():
            # The name, in brackets, may hold blanks.
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def peak(self):
        """The most memory it has had, in bytes."""
        return self.memory("VmHWM")

    def memory(self, what="VmRSS"):
        """The memory that it has, in bytes, its children left out."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+)", status)[1]) << 10

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self in self.work.servers:
            self.work.servers.remove(self)


def measured(*command, env=None, seconds=1800, **more):
    """A command to its end, at most so many seconds: its wall and processor seconds, peak memory in bytes (0 for a short one), and output."""
    command = [str(word) for word in command]
    begun = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env or environment(), **more)
    guard = threading.Timer(seconds, child.kill)
    guard.start()
    watch = Watch(child.pid)
    watch.start()
    try:
        out = child.stdout.read()
        # Unlike Popen.wait, it tells what this child has used, and its children with it.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    finally:
        guard.cancel()
        watch.ended.set()
        if child.returncode is None:
            child.kill()
            child.wait()
    wall = time.monotonic() - begun
    if child.returncode:
        fail(f"{' '.join(command)[:300]} ended with {child.returncode}: {out.decode(errors='replace')[-2000:]}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": watch.peak, "out": out}


class Watch(threading.Thread):
    """Looks at a process's peak of memory until it has ended. What wait4 tells is at least this script's own, which started it."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.status, self.ended, self.peak = pathlib.Path(f"/proc/{pid}/status"), threading.Event(), 0

    def run(self):
        while not self.ended.wait(0.05):
            try:
                told = re.search(r"VmHWM:\s+(\d+)", self.status.read_text())
            except OSError:
                return
            if told:
                self.peak = max(self.peak, int(told[1]) << 10)


def run(*command, **more):
    """A command to its end: its wall and processor seconds, and its output."""
    done = measured(*command, **more)
    return done["wall"], done["cpu"], done["out"]


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url, headers=()):
    """A whole answer."""
    given = [word for header in headers for word in ("-H", header)]
    return run("curl", "-fsSL", *given, url)[2]


def whole_chunks(gib):
    """Bytes of so many GiB, cut to whole chunks of a layer."""
    return int(gib * (1 << 30)) // CHUNK * CHUNK


def random_file(path, size):
    """A file that does not compress, like weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        while size:
            part = os.urandom(min(size, CHUNK))
            file.write(part)
            size -= len(part)


def weights_file(path, size):
    """A file as a model's weights are: numbers of 16 bits (bf16), normally distributed. It compresses to four fifths."""
    normal = statistics.NormalDist(0, 0.02)
    # The sign and the upper seven bits of the exponent; what is below is as good as random.
    upper = bytes(struct.pack(">f", normal.inv_cdf((at + 0.5) / 256))[0] for at in range(256))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        while size:
            part = bytearray(os.urandom(min(size, CHUNK)))
            part[1::2] = part[1::2].translate(upper)
            file.write(part)
            size -= len(part)


def settle():
    """Writes out what others have left in the page cache, so that nobody pays for it later."""
    os.sync()
    time.sleep(0.2)


def pause():
    """Between two looks at what will be there soon."""
    time.sleep(0.05)


def fresh_pages(path, size):
    """Has the system fetch the memory for a file of this size in the page cache. A virtual machine that gave it back to its host takes
    several times as long for a write otherwise, or not, as it happens."""
    piece = os.urandom(256 << 10)
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // len(piece)):
            file.write(piece)
    path.unlink()


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def machine():
    """One line on where this ran."""
    cores = len(os.sched_getaffinity(0))
    text = pathlib.Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*:\s*(.*)", text)
    sha = "with" if re.search(r"\bsha_ni\b", text) else "without"
    load = os.getloadavg()[0]
    return f"{time.strftime('%Y-%m-%d')}, {cores} cores, {name[1] if name else '?'} ({sha} SHA instructions), load {load:.1f} at the start"


def table(heads, rows):
    """Prints rows of text: the first column to the left, the others to the right."""
    rows = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(heads))]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def progress(text):
    print(text, file=sys.stderr, flush=True)
