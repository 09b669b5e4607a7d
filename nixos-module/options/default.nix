# All options of services.nixci, one file per section of the configuration. Their names in camelCase are those of the
# TOML in snake_case, and `null` leaves a value to the daemon (render.nix).
{ lib, pkgs }:

let
  inherit (lib) mkOption;
  t = import ../types.nix { inherit lib; };

  # An option that is left to the daemon where it is not set: `usual` says in words what it does then.
  left =
    {
      type,
      description,
      usual ? null,
      ...
    }@args:
    mkOption (
      removeAttrs args [ "usual" ]
      // {
        type = t.nullOr type;
        default = null;
        description = lib.trim description + lib.optionalString (usual != null) "\n\nWhere it is `null`: ${usual}.";
      }
    );

  # An option without which an entry of a list means nothing.
  needed = mkOption;

  listOfTables =
    {
      description,
      options,
      example,
    }:
    mkOption {
      type = t.listOf (t.submodule { inherit options; });
      default = [ ];
      inherit description example;
    };

  section = file: import file { inherit lib t left needed listOfTables mkOption; };
in
{
  enable = lib.mkEnableOption "nixci, a CI daemon for Nix";

  package = lib.mkOption {
    type = lib.types.package;
    default = pkgs.nixci-daemon or (pkgs.callPackage ../package.nix { program = "nixci-daemon"; });
    defaultText = lib.literalMD "`nixci-daemon` of this source";
    example = lib.literalExpression "inputs.nixci.packages.x86_64-linux.nixci-daemon";
    description = ''
      The daemon, and its units: `systemctl cat nixci-daemon` shows them, with what this module adds.
    '';
  };

  settings = mkOption {
    type = (pkgs.formats.toml { }).type;
    default = { };
    example.limits.jobs = 50000;
    description = ''
      What is merged over the configuration last, in the words of `nixci.toml`. For keys that have no option here; tables
      are merged, lists are replaced.
    '';
  };

  storeDir = left {
    type = t.directory;
    example = "/gnu/store";
    usual = "`/nix/store`";
    description = "The store directory whose paths are taken.";
  };

  logFormat = left {
    type = t.enum [
      "text"
      "json"
    ];
    example = "json";
    usual = "`text`";
    description = "How log lines look in the journal.";
  };

  logLevel = left {
    type = t.logFilter;
    example = "info,nixci_daemon=debug";
    usual = "`info`";
    description = "What is logged (`NIXCI_LOG`).";
  };

  openFirewall = mkOption {
    type = t.bool;
    default = false;
    example = true;
    description = ''
      Whether other machines may connect: to the port of `listen.http`, or to ports 80 and 443 where `nginx` is in front.
    '';
  };

  credentials = mkOption {
    type = t.attrsOf t.secretPath;
    default = { };
    example.builder = "/etc/nixci/builder-key";
    description = ''
      Files that systemd hands to the service, by name (`LoadCredential=`): only root has to be able to read them. Options
      that take a secret make their own of a path; these are for what is named in `uri` of a store, as
      `/run/credentials/nixci-daemon.service/NAME`, and for secrets that are named in place of a path. A changed file counts
      after a restart of the service.
    '';
  };

  listen = section ./listen.nix;
  stores = section ./stores.nix;
  forges = section ./forges.nix;
  projects = section ./projects.nix;
  oidc = section ./oidc.nix;
  tokens = section ./tokens.nix;
  limits = section ./limits.nix;
  retention = section ./retention.nix;
  cache = section ./cache.nix;
  keys = section ./keys.nix;
  ssh = section ./ssh.nix;
  nginx = section ./nginx.nix;
  substituter = section ./substituter.nix;
  store = section ./store.nix;
}
