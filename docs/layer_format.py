#!/usr/bin/env python3
"""Layer format 1 as layer-format.md tells it, for reading and for checking: it keeps a whole layer in memory.

Run it to compare with the page's test vector. To make a layer of a folder: layer_format.py FOLDER > layer.tar.gz
"""

import hashlib
import json
import pathlib
import struct
import sys
import zlib

CHUNK = 4 << 20
BLOCK = 65_535
LARGE = 8 << 30  # the first size that a header cannot hold


def header(name: bytes, size: int, kind: bytes, mode: int) -> bytes:
    h = bytearray(512)
    h[: len(name)] = name
    h[100:108] = b"%07o\0" % mode
    h[108:116] = h[116:124] = b"0000000\0"
    h[124:136] = b"%011o\0" % size
    h[136:148] = b"00000000000\0"
    h[148:156] = b" " * 8
    h[156:157] = kind
    h[257:265] = b"ustar\x0000"
    h[329:337] = h[337:345] = b"0000000\0"
    h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h)


def padding(size: int) -> bytes:
    return bytes(-size % 512)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def entry(name: bytes, size: int, kind: bytes, mode: int) -> bytes:
    records = b""
    if len(name) > 100 or any(byte > 0x7F for byte in name):
        records += record(b"path", name)
    if size >= LARGE:
        records += record(b"size", b"%d" % size)
    extended = b""
    if records:
        extended = header(b"././@PaxHeader", len(records), b"x", 0o644) + records + padding(len(records))
    short = bytes(ord("_") if byte > 0x7F else byte for byte in name)[:100]
    return extended + header(short, 0 if size >= LARGE else size, kind, mode)


def member(data: bytes) -> bytes:
    out = bytearray.fromhex("1f8b0800 00000000 00ff")
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        out += struct.pack("<BHH", start + BLOCK >= len(data), len(block), len(block) ^ 0xFFFF) + block
    return bytes(out) + struct.pack("<II", zlib.crc32(data), len(data) % (1 << 32))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(files: dict[str, bytes]) -> dict:
    blob, diff = bytearray(), hashlib.sha256()
    entries, folders, metadata = [], set(), b""
    common = {"modtime": "1970-01-01T00:00:00Z"}

    def put(data: bytes) -> int:
        at = len(blob)
        blob.extend(member(data))
        diff.update(data)
        return at

    for path in sorted(files, key=str.encode):
        data, parts = files[path], path.split("/")
        for depth in range(1, len(parts)):
            name = "/".join(parts[:depth]) + "/"
            if name not in folders:
                folders.add(name)
                metadata += entry(name.encode(), 0, b"5", 0o755)
                entries.append({"name": name, "type": "dir", **common, "mode": 0o755, "uid": 0, "gid": 0})
        metadata += entry(path.encode(), len(data), b"0", 0o644)
        size = {"size": len(data)} if data else {}
        toc = {"name": path, "type": "reg", **size, **common, "mode": 0o644, "uid": 0, "gid": 0}
        if not data:
            entries.append(toc)
            continue
        toc["digest"] = sha256(data)
        put(metadata)
        for start in range(0, len(data), CHUNK):
            chunk = data[start : start + CHUNK]
            if start > 0:
                toc = {"name": path, "type": "chunk"}
            toc["offset"] = put(chunk)
            if start > 0:
                toc["chunkOffset"] = start
            if start + CHUNK < len(data):
                toc["chunkSize"] = len(chunk)
            toc["chunkDigest"] = sha256(chunk)
            entries.append(toc)
        metadata = padding(len(data))

    put(metadata + bytes(1024))
    toc = json.dumps({"version": 1, "entries": entries}, separators=(",", ":"), ensure_ascii=False).encode()
    at = put(header(b"stargz.index.json", len(toc), b"0", 0o644) + toc + padding(len(toc)) + bytes(1024))
    blob += bytes.fromhex("1f8b0804 00000000 00ff 1a00") + b"SG\x16\x00" + b"%016x" % at + b"STARGZ"
    blob += bytes.fromhex("010000ffff") + bytes(8)
    return {
        "bytes": bytes(blob),
        "size": len(blob),
        "toc offset": at,
        "blob": sha256(blob),
        "diff id": "sha256:" + diff.hexdigest(),
        "toc": sha256(toc),
    }


def pat(n: int) -> bytes:
    return bytes((31 * i + 7) % 251 for i in range(n))


def test_vector() -> dict[str, bytes]:
    return {
        "config.json": b'{"model_type":"demo"}\n',
        "empty.txt": b"",
        "model.safetensors": pat(5_000_000),
        "sub/dir/ÿé.txt": b"hello",
        "tokenizer/" + 120 * "n" + ".json": b"{}",
        "z.bin": pat(4_194_304),
    }


def main() -> None:
    if len(sys.argv) == 2:
        root = pathlib.Path(sys.argv[1])
        found = (path for path in root.rglob("*") if path.is_file())
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in found}
        sys.stdout.buffer.write(layer(files)["bytes"])
        return
    page = pathlib.Path(__file__).with_name("layer-format.md").read_text()
    made = layer(test_vector())
    for name in ["size", "toc offset", "blob", "diff id", "toc"]:
        value = made[name]
        written = f"{value:,}" if isinstance(value, int) else value.removeprefix("sha256:")
        print(f"{name:12}{value}")
        if written not in page:
            sys.exit(f"layer-format.md has another {name}")


if __name__ == "__main__":
    main()
