import json

SYSTEM = "$(uname -m)-linux"

start_all()
builder.wait_for_unit("sshd.service" if builder.execute("systemctl cat sshd.service")[0] == 0 else "ssh.service")
builder.wait_for_open_port(22)
ci.wait_for_open_port(22)

with subtest("the key lets nobody into a shell"):
    status, said = laptop.execute("ssh -o BatchMode=yes nixci@ci id < /dev/null")
    assert "uid=" not in said, said

with subtest("one submission over ssh, built on the third machine"):
    laptop.succeed("mkdir -p /srv/checks && cp /etc/checks/flake.nix /srv/checks/ && echo one > /srv/checks/salt")
    status, said = laptop.execute(f"nixci submit --wait --project demo path:/srv/checks#checks.{SYSTEM}", timeout=120)
    assert status == 1, said
    counts = json.loads(laptop.execute("nixci status latest --json")[1])["summary"]["counts"]
    assert (counts["succeeded"], counts["failed"], counts["blocked"]) == (2, 1, 1), counts

with subtest("the outputs are on the builder, and neither here nor on the machine of the daemon"):
    drv = laptop.succeed(f"nix path-info --derivation path:/srv/checks#good.{SYSTEM}.application").strip()
    out = laptop.succeed(f"nix-store --query --outputs {drv}").strip()
    builder.succeed(f"nix-store --check-validity {out}")
    ci.fail(f"nix-store --check-validity {out}")
    laptop.fail(f"nix-store --check-validity {out}")

with subtest("the log came along"):
    log = laptop.succeed(f"nixci log checks.{SYSTEM}.application")
    assert "linking" in log, log

with subtest("stock Nix fetches it from the builder through the daemon"):
    remote = "ssh-ng://nixci@ci"
    laptop.succeed(f"nix copy --no-check-sigs --from {remote} {out}")
    assert laptop.succeed(f"cat {out}").strip() == "application is fine"

with subtest("whoever has the key is known by its name, and is not trusted"):
    doctor = laptop.succeed("nixci doctor")
    assert "laptop" in doctor, doctor
