# [[store]]
{
  t,
  left,
  needed,
  listOfTables,
  ...
}:

listOfTables {
  description = ''
    Where builds run, the first one by preference. Without any: this host's own nix-daemon, with a slot per core.
  '';
  example = [
    {
      name = "here";
      slots = 4;
    }
    {
      name = "arm";
      uri = "ssh-ng://builder@arm.example.org?ssh-key=/run/credentials/nixci-daemon.service/arm";
      systems = [ "aarch64-linux" ];
    }
  ];
  options = {
    name = needed {
      type = t.nonEmpty;
      example = "here";
      description = "Its name in logs and pages; names differ.";
    };

    uri = left {
      type = t.storeUri;
      example = "ssh-ng://builder@host";
      usual = "`auto`, which is what Nix would use here";
      description = "Where it is: `auto`, `daemon`, `unix://SOCKET`, `ssh-ng://[USER@]HOST`, `local` or `local?root=DIR`, with parameters as of Nix.";
    };

    slots = left {
      type = t.between 1 10000;
      example = 8;
      usual = "one per core of this host";
      description = "Builds it runs at once.";
    };

    cores = left {
      type = t.number;
      example = 4;
      usual = "all, as with `0`";
      description = "Cores that one build may use.";
    };

    systems = left {
      type = t.nonEmptyListOf t.nonEmpty;
      example = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      usual = "that of this host, and `i686-linux` beside `x86_64-linux`";
      description = "Systems it builds for.";
    };

    features = left {
      type = t.listOf t.nonEmpty;
      example = [
        "kvm"
        "big-parallel"
      ];
      usual = "`benchmark`, `big-parallel`, `nixos-test`, and `kvm` where this host has it";
      description = "Features it offers, as in `requiredSystemFeatures`.";
    };

    dispatch = left {
      type = t.enum [
        "derivation"
        "root"
      ];
      example = "root";
      usual = "`derivation`";
      description = "What is sent to it: single derivations in the order of their dependencies, or whole roots, for a store that schedules by itself.";
    };
  };
}
