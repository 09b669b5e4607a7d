import json

SYSTEM = "$(uname -m)-linux"
FIRST = "1" * 40
SECOND = "2" * 40
THIRD = "3" * 40


def told(commit):
    """What the forge was told of a commit: for each context all states, oldest first."""
    rows = json.loads(forge.succeed("python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:3000/told\").read().decode())'"))
    contexts = {}
    for row in rows:
        if row["commit"] == commit:
            contexts.setdefault(row["context"], []).append(row["status"])
    return contexts


def submit(what, commit, more=""):
    ci.succeed(f"nixci submit --project acme/widgets --commit {commit} {more} path:/srv/checks#{what}.{SYSTEM}")


def reported(commit):
    # 0: forges have everything; 3: something is to be sent.
    ci.wait_until_succeeds(f"nixci report {commit}", timeout=120)


def serve():
    forge.succeed("systemd-run --quiet --unit=forge --collect $(command -v python3) /etc/forge.py")
    forge.wait_for_open_port(3000)


start_all()
serve()
ci.wait_for_unit("nixci-daemon.socket")
ci.succeed("mkdir -p /srv/checks /var/lib/gates && cp /etc/checks/flake.nix /srv/checks/ && echo one > /srv/checks/salt")
ci.succeed("mkfifo -m 666 /var/lib/gates/first /var/lib/gates/second && chmod 755 /var/lib/gates")

with subtest("the doctor knows the forge, by the secrets that systemd handed over"):
    assert "17.0.0" in ci.succeed("nixci doctor")
    ci.fail("su -s /bin/sh nixci -c 'cat /etc/nixci/forgejo-token'")

with subtest("a commit shows its verdict, a line for each job, and no state twice"):
    submit("checks", FIRST)
    ci.wait_until_succeeds("code=0; nixci status latest || code=$?; test $code = 1", timeout=60)
    reported(FIRST)
    contexts = told(FIRST)
    assert contexts["nixci"][-1] == "failure", contexts
    assert contexts["nixci/evaluation"][-1] == "success", contexts
    jobs = [states[-1] for name, states in contexts.items() if name.startswith("nixci/checks.")]
    assert sorted(jobs) == ["failure", "failure", "success", "success"], contexts
    for name, states in contexts.items():
        assert len(states) == len(set(states)), f"{name}: {states}"

with subtest("the link of a status leads to a page"):
    rows = json.loads(forge.succeed("cat /var/lib/forge.json"))
    assert all(row["target_url"].startswith("http://ci:8480/") for row in rows), rows
    forge.succeed(f"python3 -c 'import urllib.request as u; u.urlopen(\"{rows[-1]['target_url']}\")'")

with subtest("a forge that cannot be reached is told later"):
    forge.block()
    ci.succeed("echo two > /srv/checks/salt")
    submit("good", SECOND)
    ci.wait_until_succeeds("nixci status latest", timeout=60)
    assert ci.execute(f"nixci report {SECOND}")[0] == 3
    ci.succeed("systemctl restart nixci-daemon.service")
    forge.unblock()
    reported(SECOND)
    assert told(SECOND)["nixci"][-1] == "success", told(SECOND)

with subtest("a pull request that closes stops what only it wanted"):
    submit("gated", THIRD, "--pull-request 7")
    ci.wait_until_succeeds("pgrep -fa '[r]ead -r word < /gates/first'", timeout=60)
    closed = {
        "action": "closed",
        "number": 7,
        "pull_request": {
            "id": 7,
            "number": 7,
            "state": "closed",
            "updated_at": "2030-01-01T00:00:00Z",
            "head": {"label": "topic", "ref": "topic", "sha": THIRD, "repo_id": 1},
            "base": {"label": "main", "ref": "main", "sha": FIRST, "repo_id": 1},
        },
        "repository": {"id": 1, "full_name": "acme/widgets"},
    }
    assert forge.succeed(f"python3 /etc/forge.py pull_request '{json.dumps(closed)}'").startswith("2")
    ci.wait_until_fails("pgrep -fa '[r]ead -r word < /gates/'", timeout=60)
    ci.wait_until_succeeds("(nixci status latest --json || true) | grep -q '\"cancelled\"'", timeout=60)

with subtest("a delivery with a wrong signature does nothing"):
    forge.succeed("sed 's/^SECRET = .*/SECRET = b\"wrong\"/' /etc/forge.py > /tmp/forge.py")
    forge.fail("python3 /tmp/forge.py pull_request '{}'")
