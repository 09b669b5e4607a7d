import json

SYSTEM = "$(uname -m)-linux"
GATES = ("first", "second")


def summary():
    return json.loads(ci.execute("nixci status latest --json")[1])["summary"]


def wait_at_gates():
    for gate in GATES:
        ci.wait_until_succeeds(f"nixci log gated.{SYSTEM}.{gate} | grep -q 'is at its gate'", timeout=60)
        ci.wait_until_succeeds(f"pgrep -fa '[r]ead -r word < /gates/{gate}'", timeout=60)


def open_gate(gate):
    # Waits for the build that reads from the pipe.
    ci.succeed(f"timeout 60 sh -c 'echo open > /var/lib/gates/{gate}'")


def main_pid():
    return ci.succeed("systemctl show -P MainPID nixci-daemon.service").strip()


ci.start(allow_reboot=True)
ci.wait_for_unit("nixci-daemon.socket")
ci.succeed("mkdir -p /var/lib/gates && mkfifo -m 666 /var/lib/gates/first /var/lib/gates/second && chmod 755 /var/lib/gates")
ci.succeed("mkdir -p /srv/checks && cp /etc/checks/flake.nix /srv/checks/ && echo one > /srv/checks/salt")

with subtest("two builds stand at their gates"):
    ci.succeed(f"nixci submit --project demo path:/srv/checks#gated.{SYSTEM}")
    wait_at_gates()

with subtest("the daemon is killed and comes back by itself to the same builds"):
    before = main_pid()
    ci.succeed(f"kill -9 {before}")
    ci.wait_until_succeeds(f"test $(systemctl show -P MainPID nixci-daemon.service) != {before} && systemctl is-active nixci-daemon.service", timeout=60)
    wait_at_gates()
    assert summary()["state"] == "building", summary()

with subtest("what was finished meanwhile is not built again"):
    open_gate("first")
    ci.wait_until_succeeds(f"nixci log gated.{SYSTEM}.first | grep -q 'heard open'", timeout=60)
    ci.wait_until_succeeds("nixci jobs latest --json | grep -q '\"built\"'", timeout=60)

with subtest("the machine loses its power and boots again"):
    # Nix does not wait for the disk; what it had built a moment ago may be lost with the power, and is built again.
    ci.succeed("sync")
    ci.crash()
    ci.start(allow_reboot=True)
    ci.wait_for_unit("nixci-daemon.service")
    ci.wait_until_succeeds("pgrep -fa '[r]ead -r word < /gates/second'", timeout=60)
    ci.fail("pgrep -fa '[r]ead -r word < /gates/first'")
    open_gate("second")
    # 0 is the exit code of a verdict without failures.
    ci.wait_until_succeeds("nixci status latest", timeout=60)
    counts = summary()["counts"]
    assert summary()["state"] == "done" and counts["succeeded"] == counts["jobs"] == 3, summary()

with subtest("an orderly reboot keeps it all"):
    ci.reboot()
    ci.wait_for_unit("nixci-daemon.socket")
    ci.succeed("nixci status latest")

with subtest("the nix-daemon is killed, which is no failure of a build"):
    ci.succeed("echo two > /srv/checks/salt")
    ci.succeed(f"nixci submit --project demo path:/srv/checks#gated.{SYSTEM}")
    wait_at_gates()
    ci.succeed("systemctl kill --signal=SIGKILL --kill-whom=all nix-daemon.service")
    wait_at_gates()
    open_gate("first")
    open_gate("second")
    ci.wait_until_succeeds("nixci status latest", timeout=60)
