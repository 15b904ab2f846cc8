"""The simulator of the Hub with the one call that olah makes and it does not have: POST …/paths-info/REVISION.

`python3 paths_info.py PORT HUB` (HUB: host and port) passes every other request on; what is large comes by a redirect, and not through here.
"""

import http.client
import http.server
import json
import sys
import urllib.parse

KEPT = ("content-type", "content-length", "etag", "location", "link", "accept-ranges", "content-range")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status, headers, body = self.ask(self.command, self.path)
        kept = [(name, value) for name, value in headers if name.lower() in KEPT or name.lower().startswith("x-")]
        self.answer(status, kept, body)

    do_HEAD = do_GET

    def do_POST(self):
        given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/paths-info/" not in self.path:
            return self.answer(405, [("Content-Length", "0")], b"")
        if given.lstrip().startswith(b"{"):
            paths = json.loads(given).get("paths", [])
        else:
            paths = urllib.parse.parse_qs(given.decode()).get("paths", [])
        wanted = {paths} if isinstance(paths, str) else set(paths)
        tree = self.path.partition("?")[0].replace("/paths-info/", "/tree/", 1) + "?recursive=true"
        status, _, body = self.ask("GET", tree)
        if status == 200:
            body = json.dumps([entry for entry in json.loads(body) if entry["path"] in wanted]).encode()
        self.answer(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))], body)

    def ask(self, method, path):
        hub = http.client.HTTPConnection(sys.argv[2], timeout=60)
        try:
            hub.request(method, path, headers={"Host": sys.argv[2], **{k: v for k, v in self.headers.items() if k.lower() == "range"}})
            answer = hub.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            hub.close()

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
