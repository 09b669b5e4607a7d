# The stories of this folder as NixOS tests, one attribute each. `vm-tests/run` runs the same stories in Debian machines.
#
#   nix build .#checks.x86_64-linux.vm-local-store
{
  pkgs,
  # The NixOS module under test.
  module ? ../nixos-module,
}:

let
  inherit (pkgs) lib;

  # A story is a file with a script of the same name beside it. One with a `bare` machine is about how Debian gets Nix and
  # nixci; a NixOS machine has both.
  names = lib.filter (name: builtins.pathExists (./. + "/${name}.py")) (
    map (lib.removeSuffix ".nix") (
      lib.filter (lib.hasSuffix ".nix") (lib.attrNames (builtins.readDir ./.))
    )
  );

  nodeOf = machine: {
    imports = [ module ];

    services.nixci = lib.mkMerge [
      (lib.mkIf (machine ? daemon) ({ enable = true; } // machine.daemon or { }))
      { client = lib.mkIf (machine ? client) ({ enable = true; } // machine.client or { }); }
    ];

    nix.settings = {
      experimental-features = [
        "nix-command"
        "flakes"
      ];
      substituters = lib.mkForce [ ];
    }
    // lib.mapAttrs (
      name: value: if name == "substituters" then lib.mkForce value else value
    ) (machine.nix or { });

    # Machines know each other by name, and nobody asks about host keys; root has the throw-away key everywhere.
    programs.ssh.extraConfig = ''
      StrictHostKeyChecking no
      UserKnownHostsFile /dev/null
      LogLevel ERROR
    '';
    services.openssh = lib.mkIf (machine.sshd or false) { enable = true; };
    users.users = {
      root.openssh.authorizedKeys.keys = lib.mkIf (machine.sshd or false) [
        (lib.trim (builtins.readFile ./keys/id_ed25519.pub))
      ];
    }
    // lib.genAttrs (machine.users or [ ]) (_: {
      isNormalUser = true;
    });

    # Before any service starts, and as plain files, which a script may change.
    system.activationScripts.storyFiles = {
      deps = [
        "etc"
        "users"
      ];
      text =
        let
          install =
            path: file:
            "install -D -m ${file.mode or "0644"} ${
              pkgs.writeText "file" file.text
            } ${lib.escapeShellArg path}\n";
        in
        lib.concatStrings (
          lib.mapAttrsToList install (
            {
              "/root/.ssh/id_ed25519" = {
                text = builtins.readFile ./keys/id_ed25519;
                mode = "0600";
              };
            }
            // machine.files or { }
          )
        );
    };

    # A daemon's machine lets in what its options let in; what runs on the others is the stories' own.
    networking.firewall.enable = machine ? daemon;

    documentation.enable = false;
    environment.systemPackages = map (name: pkgs.${name}) (machine.tools or [ ]);

    virtualisation = {
      memorySize = machine.memory or 1024;
      cores = 2;
      writableStore = true;
    };
  };

  storyOf = name: import (./. + "/${name}.nix");
  isForNixos =
    name: !lib.any (machine: machine.bare or false) (lib.attrValues (storyOf name).machines);

  testOf =
    name:
    let
      story = storyOf name;
    in
    pkgs.testers.runNixOSTest {
      name = "nixci-${name}";
      nodes = lib.mapAttrs (_: nodeOf) story.machines;
      testScript = builtins.readFile story.script;
      # The scripts also run on a driver of ours, which has the same methods and not the same types.
      skipTypeCheck = true;
      skipLint = true;
    };
in
lib.genAttrs names testOf
