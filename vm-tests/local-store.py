import json
import shlex


def alice(command):
    return f"su - alice -c {shlex.quote(command)}"


SUBMIT = "nixci submit --project demo"

start_all()
ci.wait_for_unit("nixci-daemon.socket")

with subtest("the first connection starts the daemon"):
    ci.succeed(alice("nixci status"))
    ci.wait_for_unit("nixci-daemon.service")

with subtest("the unit is as hardened as it is said to be"):
    report = ci.succeed("systemd-analyze security --no-pager nixci-daemon.service")
    exposure = float(report.split("Overall exposure level for nixci-daemon.service: ")[1].split()[0])
    print(f"exposure: {exposure}")
    assert exposure <= 2.0, report

with subtest("a user submits and leaves; the verdict is there later, with its root cause"):
    ci.succeed(alice("mkdir checks && cp /etc/checks/flake.nix checks/flake.nix && echo one > checks/salt"))
    ci.succeed(alice(f"{SUBMIT} path:/home/alice/checks#checks.$(uname -m)-linux"))
    # 1 is the exit code of a verdict with failures, 3 of one that is not there yet.
    ci.wait_until_succeeds(alice("code=0; nixci status latest || code=$?; test $code = 1"), timeout=60)
    status = json.loads(ci.execute(alice("nixci status latest --json"))[1])
    counts = status["summary"]["counts"]
    assert status["summary"]["state"] == "done", status
    assert (counts["succeeded"], counts["failed"], counts["blocked"]) == (2, 1, 1), counts
    log = ci.succeed(alice("nixci log checks.$(uname -m)-linux.blocked"))
    assert "unknown token" in log, log

with subtest("the same again is answered at once and builds nothing"):
    again = ci.execute(alice(f"{SUBMIT} --wait path:/home/alice/checks#checks.$(uname -m)-linux"), timeout=30)
    assert again[0] == 1, again
    assert len(json.loads(ci.succeed(alice("nixci status --json")))) == 2

with subtest("what is fine ends with 0, and --wait shows it"):
    ci.succeed(alice(f"{SUBMIT} --wait path:/home/alice/checks#good.$(uname -m)-linux"))

with subtest("pages, interface and metrics answer on the port of the socket unit"):
    page = ci.succeed("curl -sSf http://127.0.0.1:8480/")
    assert "demo" in page, page
    jobs = json.loads(ci.succeed("curl -sSf http://127.0.0.1:8480/api/v1/evaluations/1/jobs"))
    assert len(jobs) == 4, jobs
    ci.succeed("curl -sSf http://127.0.0.1:8480/metrics | grep -q ^nixci_")

with subtest("stock Nix copies, builds and fetches through the daemon"):
    ci.succeed(alice("nix build --no-link --print-out-paths path:/home/alice/checks#good.$(uname -m)-linux.application"))
    remote = "ssh-ng://localhost?remote-program=nixci-daemon%20stdio"
    out = ci.succeed(
        alice(f"echo two > checks/salt; nix build --store '{remote}' --eval-store auto --no-link --print-out-paths path:/home/alice/checks#good.$(uname -m)-linux.library")
    ).strip()
    ci.succeed(alice(f"nix path-info --store '{remote}' {out}"))
    ci.succeed(f"nix-store --check-validity {out}")

with subtest("the doctor finds nothing wrong"):
    ci.succeed(alice("nixci doctor"))

with subtest("a restart keeps what was recorded, and refuses nobody meanwhile"):
    ci.succeed("systemctl restart nixci-daemon.service")
    assert len(json.loads(ci.succeed(alice("nixci status --json")))) == 3

with subtest("a reload keeps the daemon running"):
    before = ci.succeed("systemctl show -P MainPID nixci-daemon.service").strip()
    ci.succeed("systemctl reload nixci-daemon.service")
    assert ci.succeed("systemctl show -P MainPID nixci-daemon.service").strip() == before
    ci.succeed(alice("nixci status"))
