import json

SYSTEM = "$(uname -m)-linux"
GATES = ("first", "second")


def make_gates():
    builder.succeed("mkdir -p /var/lib/gates && cd /var/lib/gates && rm -f first second && mkfifo -m 666 first second")


def wait_at_gates():
    for gate in GATES:
        builder.wait_until_succeeds(f"pgrep -fa '[r]ead -r word < /gates/{gate}'", timeout=120)


def open_gates():
    for gate in GATES:
        builder.succeed(f"timeout 60 sh -c 'echo open > /var/lib/gates/{gate}'")


def submit(salt):
    ci.succeed(f"echo {salt} > /srv/checks/salt")
    ci.succeed(f"nixci submit --project demo path:/srv/checks#gated.{SYSTEM}")


def counts():
    return json.loads(ci.execute("nixci status latest --json")[1])["summary"]["counts"]


start_all()
builder.wait_for_open_port(22)
ci.wait_for_unit("nixci-daemon.socket")
ci.succeed("mkdir -p /srv/checks && cp /etc/checks/flake.nix /srv/checks/")
make_gates()

with subtest("the store loses its power in the middle of builds; nothing fails, and the reason is told"):
    submit("one")
    wait_at_gates()
    builder.crash()
    ci.wait_until_succeeds("nixci jobs latest --json | grep -i queued | grep -q builder", timeout=180)
    assert counts()["failed"] == 0, counts()
    assert ci.execute("nixci doctor")[0] != 0, "the doctor sees that the store is away"

with subtest("it returns, and the builds are made"):
    builder.start()
    builder.wait_for_open_port(22)
    wait_at_gates()
    open_gates()
    ci.wait_until_succeeds("nixci status latest", timeout=180)
    assert counts()["succeeded"] == 3, counts()

with subtest("what is submitted while it is away waits for it"):
    builder.shutdown()
    submit("two")
    assert counts()["failed"] == 0, counts()
    builder.start()
    builder.wait_for_open_port(22)
    wait_at_gates()

with subtest("a link that is cut for a while is survived too"):
    cut_off = builder.succeed("pgrep -f '[r]ead -r word'").split()
    builder.block()
    ci.wait_until_succeeds("nixci jobs latest --json | grep -i queued | grep -q builder", timeout=300)
    builder.unblock()
    # The builder hears of it now, and ends what nobody waits for; a gate must not be opened for those.
    for process in cut_off:
        builder.wait_until_fails(f"kill -0 {process}", timeout=120)
    wait_at_gates()
    open_gates()
    ci.wait_until_succeeds("nixci status latest", timeout=180)
