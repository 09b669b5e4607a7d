SYSTEM = "$(uname -m)-linux"

start_all()
ci.wait_for_unit("nixci-daemon.socket")
ci.wait_for_open_port(8480)
ci.wait_for_open_port(22)

with subtest("something is built"):
    ci.succeed("mkdir -p /srv/checks && cp /etc/checks/flake.nix /srv/checks/ && echo one > /srv/checks/salt")
    ci.succeed(f"nixci submit --wait --project demo path:/srv/checks#good.{SYSTEM}")
    drv = ci.succeed(f"nix path-info --derivation path:/srv/checks#good.{SYSTEM}.application").strip()
    out = ci.succeed(f"nix-store --query --outputs {drv}").strip()

with subtest("the narinfo is signed, and ranked as configured"):
    name = out.removeprefix("/nix/store/").split("-")[0]
    narinfo = fetcher.succeed(f"curl -sSf http://ci:8480/{name}.narinfo")
    assert "Sig: ci.example.org-1:" in narinfo, narinfo
    assert "Priority: 30" in fetcher.succeed("curl -sSf http://ci:8480/nix-cache-info")

with subtest("a client substitutes it and checks the signature"):
    fetcher.succeed(f"nix-store --realise {out}")
    assert fetcher.succeed(f"cat {out}").strip() == "application is fine"
    # The library is not needed to run the application, so nothing else was fetched.
    fetcher.succeed(f"nix store verify --no-contents {out}")

with subtest("a client that does not know the key takes nothing"):
    ci.succeed(f"echo two > /srv/checks/salt; nixci submit --wait --project demo path:/srv/checks#good.{SYSTEM}")
    other = ci.succeed(f"nix-store --query --outputs $(nix path-info --derivation path:/srv/checks#good.{SYSTEM}.library)").strip()
    fetcher.fail(f"nix-store --realise {other} --option trusted-public-keys ''")
    fetcher.succeed(f"nix-store --realise {other}")

with subtest("a client whose store is the daemon builds there, and has nothing itself"):
    thin.succeed("mkdir -p /srv/checks && cp /etc/checks/flake.nix /srv/checks/ && echo three > /srv/checks/salt")
    built = thin.succeed(f"nix build --no-link --print-out-paths --eval-store auto path:/srv/checks#good.{SYSTEM}.application").strip()
    ci.succeed(f"nix-store --check-validity {built}")
    thin.fail(f"test -e {built}")
    thin.succeed(f"nix path-info {built}")
    assert thin.succeed(f"nix store cat {built}").strip() == "application is fine"
    evaluations = ci.succeed("nixci status --json")
    assert built not in evaluations
