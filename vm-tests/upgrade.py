import json

SYSTEM = "x86_64-linux"  # of the recorded state
STATE = "/var/lib/nixci"


def version():
    return int(ci.succeed(f"od -An -j60 -N4 -tu1 {STATE}/index.db").split()[-1])


start_all()
ci.wait_for_unit("nixci-daemon.socket")
ci.succeed("mkdir -p /var/lib/gates && mkfifo -m 666 /var/lib/gates/first /var/lib/gates/second && chmod 755 /var/lib/gates")

with subtest("the machine has the state of the previous version"):
    ci.succeed("systemctl stop nixci-daemon.socket nixci-daemon-http.socket nixci-daemon.service")
    ci.succeed(f"install -d -o nixci -g nixci -m 750 {STATE} && rm -rf {STATE}/*")
    ci.succeed(f"base64 -d /etc/previous.tar.gz.base64 | tar -xz -C {STATE} --no-same-owner && chown -R nixci:nixci {STATE}")
    before = version()
    print(f"version of the index: {before}")

with subtest("it is migrated at the start"):
    ci.succeed("systemctl start nixci-daemon.socket nixci-daemon-http.socket nixci-daemon.service")
    # What is written is in the file itself at the latest when the daemon has stopped.
    ci.succeed("systemctl stop nixci-daemon.service")
    assert version() > before

with subtest("what was recorded is there: verdict, root cause, log"):
    evaluations = json.loads(ci.succeed("nixci status --json"))
    assert len(evaluations) == 2, evaluations
    status, said = ci.execute("nixci status 1 --json")
    assert status == 1, said
    counts = json.loads(said)["summary"]["counts"]
    assert (counts["succeeded"], counts["failed"], counts["blocked"]) == (2, 1, 1), counts
    assert "unknown token" in ci.succeed(f"nixci log checks.{SYSTEM}.blocked 1")
    assert "demo" in ci.succeed("curl -sSf http://127.0.0.1:8480/")

with subtest("what was not finished is built"):
    for gate in ("first", "second"):
        ci.wait_until_succeeds(f"pgrep -fa '[r]ead -r word < /gates/{gate}'", timeout=60)
        ci.succeed(f"timeout 60 sh -c 'echo open > /var/lib/gates/{gate}'")
    ci.wait_until_succeeds("nixci status 2", timeout=60)

with subtest("a backup that was made before the upgrade would be restored the same way"):
    ci.succeed("nixci-daemon backup /var/backups/nixci && nixci-daemon restore --check /var/backups/nixci")
