import time

# The first is for a machine without anything; the others begin where it ends.
FIRST = "docs/getting-started-debian.md"
PAGES = [
    "README.md",
    "docs/nix-clients.md",
    "docs/configuration.md",
    "docs/forges.md",
    "docs/github.md",
    "docs/forgejo.md",
    "docs/gitlab.md",
    "docs/nixbuild-net.md",
    "docs/runners.md",
    "docs/security.md",
    "docs/operating.md",
    # Their commands are for NixOS, and for the files of a release, as they say; nothing of them is run.
    "docs/getting-started-nixos.md",
    "docs/releases.md",
]
SECONDS = 180


def follow(page):
    output = ci.succeed(f"python3 /srv/documents/run.py {page} 2>&1", timeout=600)
    for line in output.splitlines():
        ci.log(line)


begin = time.monotonic()
start_all()
ci.wait_for_unit("multi-user.target")
# Names of hosts that the documents use.
ci.succeed("for name in ci.example.org git.example.org; do echo 127.0.0.1 $name; done >> /etc/hosts")

with subtest(f"{FIRST}, in less than {SECONDS} s after the boot"):
    booted = time.monotonic()
    follow(FIRST)
    took = time.monotonic() - booted
    ci.log(f"from the boot to the last command of {FIRST}: {took:.0f} s (the boot itself: {booted - begin:.0f} s)")
    assert took < SECONDS, took

ci.succeed("cp -a /etc/nixci /etc/nixci.first")

for page in PAGES:
    with subtest(page):
        follow(page)
        # Each begins with what the first has left.
        ci.succeed(
            "systemctl stop nixci-daemon nixci-daemon.socket nixci-daemon-http.socket",
            "rm -rf /etc/systemd/system/nixci-daemon*.d /etc/nixci && cp -a /etc/nixci.first /etc/nixci",
            # What Nix remembers of a binary cache, such as that it signed nothing then.
            "rm -rf /root/.cache/nix /home/alice/.cache/nix",
            # Sockets may be started five times in ten seconds, and pages are faster than people.
            "systemctl daemon-reload && systemctl reset-failed && systemctl start nixci-daemon.socket nixci-daemon-http.socket nixci-daemon",
        )
