import json

SYSTEM = "$(uname -m)-linux"
GATES = ("first", "second")


def prepare(machine):
    machine.wait_for_unit("nixci-daemon.socket")
    machine.succeed("mkdir -p /var/lib/gates && mkfifo -m 666 /var/lib/gates/first /var/lib/gates/second && chmod 755 /var/lib/gates")


def wait_at_gates(machine):
    for gate in GATES:
        machine.wait_until_succeeds(f"pgrep -fa '[r]ead -r word < /gates/{gate}'", timeout=60)


start_all()
prepare(old)
prepare(new)
old.succeed("mkdir -p /srv/checks && cp /etc/checks/flake.nix /srv/checks/ && echo one > /srv/checks/salt")
new.wait_for_open_port(22)

with subtest("a verdict, and builds that run"):
    old.execute(f"nixci submit --wait --project demo path:/srv/checks#checks.{SYSTEM}", timeout=60)
    old.succeed(f"nixci submit --project demo path:/srv/checks#gated.{SYSTEM}")
    wait_at_gates(old)

with subtest("a backup beside them"):
    old.succeed("nixci-daemon backup /var/backups/nixci")
    old.succeed("test $(stat -c %a /var/backups/nixci) = 700")
    wait_at_gates(old)

with subtest("the old machine burns"):
    old.succeed("tar -C /var/backups -cf - nixci | ssh root@new tar -C /var/backups -xf -")
    old.crash()

with subtest("nothing is restored over a running daemon"):
    new.succeed("nixci status")
    new.fail("nixci-daemon restore /var/backups/nixci")

with subtest("the new machine has what was recorded"):
    new.succeed("systemctl stop nixci-daemon.socket nixci-daemon.service && rm -rf /var/lib/nixci/* /var/lib/nixci/.[!.]*")
    new.succeed("nixci-daemon restore /var/backups/nixci")
    new.succeed("systemctl start nixci-daemon.socket nixci-daemon.service")
    evaluations = json.loads(new.succeed("nixci status --json"))
    assert len(evaluations) == 2, evaluations
    assert "unknown token" in new.succeed(f"nixci log checks.{SYSTEM}.broken 1")

with subtest("and goes on with the queue, from nothing but the backup"):
    wait_at_gates(new)
    for gate in GATES:
        new.succeed(f"timeout 60 sh -c 'echo open > /var/lib/gates/{gate}'")
    new.wait_until_succeeds("nixci status latest", timeout=60)
