"""A forge for the stories: as much of Forgejo's API as nixci asks for, strict about it, with what it was told on GET /told.

What a real one says about tokens, commits and statuses, and how nixci's own tests hold that against Forgejo's description, is
in daemon/tests/forges.
"""

import hashlib
import hmac
import json
import re
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "a-token-of-the-stories"
SECRET = b"a-secret-of-the-stories"
STATES = {"pending", "success", "error", "failure", "warning"}
TOLD = "/var/lib/forge.json"


def told():
    try:
        with open(TOLD) as file:
            return json.load(file)
    except FileNotFoundError:
        return []


class Forge(BaseHTTPRequestHandler):
    def answer(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def is_known(self):
        if self.headers.get("Authorization") == f"token {TOKEN}":
            return True
        self.answer(401, {"message": "invalid username, password or token"})
        return False

    def do_GET(self):
        if self.path == "/told":
            self.answer(200, told())
        elif self.path == "/api/v1/version":
            self.answer(200, {"version": "17.0.0+gitea-1.22.0"})
        elif not self.is_known():
            return
        elif self.path == "/api/v1/user":
            self.answer(200, {"id": 1, "login": "ci-bot"})
        elif self.path == "/api/v1/repos/acme/widgets":
            self.answer(200, {"full_name": "acme/widgets", "permissions": {"push": True}})
        elif re.fullmatch(r"/api/v1/repos/acme/widgets/pulls/\d+", self.path):
            self.answer(404, {"message": "The target couldn't be found."})
        elif found := re.fullmatch(r"/api/v1/repos/acme/widgets/commits/([0-9a-f]{40})/statuses\?.*", self.path):
            rows = [row for row in told() if row["commit"] == found[1]]
            self.answer(200, [] if "page=1" not in self.path else list(reversed(rows)))
        else:
            self.answer(404, {"message": "The target couldn't be found."})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = re.fullmatch(r"/api/v1/repos/acme/widgets/statuses/([0-9a-f]{40})", self.path)
        if not self.is_known():
            return
        if not found:
            self.answer(404, {"message": "The target couldn't be found."})
            return
        status = json.loads(body)
        if status.get("state") not in STATES or not status.get("context") or len(status.get("description", "")) > 255:
            self.answer(422, {"message": f"not a status: {status}"})
            return
        rows = told()
        row = {
            "id": len(rows) + 1,
            "commit": found[1],
            "status": status["state"],
            "context": status["context"],
            "description": status.get("description", ""),
            "target_url": status.get("target_url", ""),
            "creator": {"id": 1, "login": "ci-bot"},
        }
        with open(TOLD, "w") as file:
            json.dump([*rows, row], file)
        self.answer(201, row)

    def log_message(self, format, *arguments):
        print(format % arguments, flush=True)


def deliver(event, body):
    """Sends a webhook to the daemon as Forgejo signs it, and prints the code of the answer."""
    data = json.dumps(body).encode()
    signature = hmac.new(SECRET, data, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-Forgejo-Event": event,
        "X-Forgejo-Delivery": hashlib.sha256(data).hexdigest()[:32],
        "X-Forgejo-Signature": signature,
    }
    request = urllib.request.Request("http://ci:8480/webhooks/forgejo", data, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(answer.status)


if len(sys.argv) == 3:
    deliver(sys.argv[1], json.loads(sys.argv[2]))
else:
    ThreadingHTTPServer(("0.0.0.0", 3000), Forge).serve_forever()
