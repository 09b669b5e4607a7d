# The command.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.nixci.client;
  t = import ./types.nix { inherit lib; };
in
{
  options.services.nixci.client = {
    enable = lib.mkEnableOption "the command nixci, with its completions and manual pages";

    package = lib.mkOption {
      type = lib.types.package;
      # In nixpkgs `nixci` is another program; with our overlay, which also brings `nixci-daemon`, it is ours.
      default =
        if pkgs ? nixci-daemon then
          pkgs.nixci
        else
          pkgs.callPackage ./package.nix { program = "nixci"; };
      defaultText = lib.literalMD "`nixci` of this source";
      example = lib.literalExpression "inputs.nixci.packages.x86_64-linux.nixci";
      description = "The command.";
    };

    to = lib.mkOption {
      type = t.nullOr t.daemonUri;
      default = null;
      example = "https://ci.example.org";
      description = ''
        The daemon that it talks to (`NIXCI_TO`).

        Where it is `null`: the socket of the user's own daemon if there is one, then that of the system's.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.variables = lib.mkIf (cfg.to != null) { NIXCI_TO = cfg.to; };
  };
}
