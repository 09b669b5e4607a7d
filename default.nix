# Everything of this project that Nix builds, also for those without flakes:
#
#   nix-build -A nixci        the command
#   nix-build -A nixci-daemon the service
#   nix-build -A vm-tests     the stories of vm-tests/ in NixOS machines
#
# and `imports = [ ./nixci/nixos-module ]` in a NixOS configuration. Without `pkgs`
# it takes the nixpkgs of flake.lock.
{
  system ? builtins.currentSystem,
  pkgs ?
    let
      inherit ((builtins.fromJSON (builtins.readFile ./flake.lock)).nodes.nixpkgs) locked;
    in
    import (builtins.fetchGit { inherit (locked) url ref rev shallow; }) { inherit system; },
  # What `--version` says beside the number.
  commit ? null,
}:

let
  inherit (pkgs) lib;
  build = program: pkgs.callPackage ./nixos-module/package.nix { inherit program commit; };
in
rec {
  nixci = build "nixci";
  nixci-daemon = build "nixci-daemon";

  # With these packages, whatever nixpkgs the machine is made of.
  nixosModule = {
    imports = [ ./nixos-module ];
    services.nixci = {
      package = lib.mkDefault nixci-daemon;
      client.package = lib.mkDefault nixci;
    };
  };

  module-tests = import ./nixos-module/tests { inherit pkgs; };

  vm-tests = lib.recurseIntoAttrs (
    import ./vm-tests {
      inherit pkgs;
      module = nixosModule;
    }
  );

  # `nix run .#demo`: what `make demo` shows, with what Nix has built.
  demo = pkgs.writeShellApplication {
    name = "nixci-demo";
    meta.description = "Submit a small flake to a daemon and watch the verdict come";
    runtimeInputs = [
      nixci
      nixci-daemon
      pkgs.coreutils
      pkgs.gawk
      pkgs.gnused
      pkgs.nix
    ];
    text = ''
      NIXCI_BUILT=1 exec ${pkgs.runtimeShell} ${./examples/demo}/run
    '';
  };

  # What building and most tests need; `make test` brings the peers of the rest by itself, on Debian.
  shell = pkgs.mkShell {
    packages = [
      pkgs.cargo
      pkgs.cargo-nextest
      pkgs.clippy
      pkgs.nixfmt
      pkgs.python3
      pkgs.rust-analyzer
      pkgs.rustc
      pkgs.rustfmt
      pkgs.shellcheck
    ];
    RUST_SRC_PATH = pkgs.rustPlatform.rustLibSrc;
  };
}
