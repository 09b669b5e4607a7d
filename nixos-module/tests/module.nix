# The module with nothing of NixOS around it but the library of nixpkgs: for types, assertions and the list of options,
# in a tenth of the time.
{ lib }:

{
  daemon ? { },
  client ? { },
  host ? { },
}:

let
  anything = lib.mkOption {
    type = lib.types.anything;
    default = { };
  };
  # As much of pkgs as options ask for.
  pkgs = {
    formats.toml = _: {
      type = lib.types.attrsOf lib.types.anything // {
        description = "TOML value";
      };
      generate = name: _: "/${name}";
    };
    stdenv = {
      buildPlatform.canExecute = _: true;
      hostPlatform = { };
    };
    runCommand =
      name: _: _:
      "/${name}";
    runtimeShell = "/bin/sh";
    callPackage = _: arguments: {
      type = "derivation";
      name = arguments.program;
      outPath = "/${arguments.program}";
    };
  };
in
lib.evalModules {
  modules = [
    ../.
    {
      options = lib.genAttrs [ "environment" "networking" "programs" "systemd" "users" ] (_: anything) // {
        assertions = lib.mkOption {
          type = lib.types.listOf lib.types.unspecified;
          default = [ ];
        };
        nix.settings = anything;
        services.openssh = {
          enable = lib.mkOption { default = false; };
          settings = anything;
        };
        services.nginx = {
          enable = lib.mkOption { default = false; };
          virtualHosts = lib.mkOption {
            default = { };
            type = lib.types.attrsOf (
              lib.types.submodule {
                freeformType = lib.types.anything;
                options = lib.genAttrs [ "forceSSL" "addSSL" "onlySSL" ] (_: lib.mkOption { default = false; });
              }
            );
          };
        };
      };
      config = {
        _module.args = { inherit pkgs; };
        services.nixci = daemon // {
          inherit client;
        };
      };
    }
    host
  ];
}
