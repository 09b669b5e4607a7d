# The service, its sockets, its user and its configuration.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) getExe' mkIf optional;

  cfg = config.services.nixci;
  program = getExe' cfg.package "nixci-daemon";
  rendered = import ./render.nix (
    removeAttrs cfg [
      "client"
      "internal"
    ]
    // {
      inherit program;
    }
  );
  inherit (rendered) toml;

  # What the daemon reads at its start only, in the words of `nixci-daemon`'s own list: all but what a reload applies.
  # A key that is new needs a restart until it is named here.
  atStart =
    removeAttrs toml [
      "forge"
      "oidc"
      "project"
      "retention"
      "token"
    ]
    // {
      listen = removeAttrs toml.listen [
        "allowed_users"
        "http_read"
        "trusted_users"
        "url"
      ];
      limits = lib.filterAttrs (
        name: _:
        lib.elem name [
          "known_infos"
          "known_paths"
          "known_time"
          "webhook_bytes"
        ]
      ) (toml.limits or { });
      store = map (
        store:
        removeAttrs store [
          "cores"
          "slots"
        ]
      ) (toml.store or [ ]);
    };

  written = (pkgs.formats.toml { }).generate "nixci.toml" toml;

  # A mistake that the types let through ends the build of the system, and not the daemon. What the daemon is built for
  # may be something that does not run here.
  checked =
    if pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
      pkgs.runCommand "nixci.toml" { preferLocalBuild = true; } ''
        ${program} check-config ${written}
        cp ${written} "$out"
      ''
    else
      written;

  port = lib.last (lib.splitString ":" toml.listen.http);
  hasHttp = toml.listen.http != "off";
in
{
  options.services.nixci = import ./options { inherit lib pkgs; } // {
    internal = lib.mkOption {
      internal = true;
      readOnly = true;
      type = lib.types.raw;
      default = {
        inherit
          rendered
          hasHttp
          port
          checked
          ;
      };
      description = "What the parts of this module tell each other.";
    };
  };

  config = mkIf cfg.enable {
    # Root runs `nixci-daemon token`, `backup` and the like; they find the configuration by themselves.
    environment.systemPackages = [ cfg.package ];
    environment.etc."nixci/nixci.toml".source = checked;

    users.groups.nixci = { };
    users.users.nixci = {
      isSystemUser = true;
      group = "nixci";
      description = "nixci daemon";
      home = "/var/lib/nixci";
    };
    systemd.tmpfiles.packages = [ cfg.package ];

    # The package's own units, hardened as they are; what follows are drop-ins.
    systemd.packages = [ cfg.package ];

    systemd.services.nixci-daemon = {
      wantedBy = [ "multi-user.target" ];
      # Stores over ssh, and a private nix-daemon where this host has none that runs.
      path = [
        config.nix.package
        config.programs.ssh.package
      ];
      inherit (rendered) environment;
      # Drop-ins add to lists; the empty entry starts a new one.
      serviceConfig = {
        LoadCredential = lib.mapAttrsToList (name: path: "${name}:${path}") rendered.credentials;
      }
      // lib.optionalAttrs (rendered.arguments != [ ]) {
        ExecStart = [
          ""
          (lib.concatStringsSep " " ([ program ] ++ rendered.arguments))
        ];
      };
      # A restart cuts off uploads; the queue goes on after it and the sockets stay. So what a reload applies is reloaded,
      # and the rest is restarted, as are credentials, which are lines of the unit.
      reloadTriggers = [ (builtins.toJSON toml) ];
      restartTriggers = [ (builtins.toJSON atStart) ];
      stopIfChanged = false;
    };

    systemd.sockets.nixci-daemon = {
      wantedBy = [ "sockets.target" ];
      listenStreams = lib.optionals (toml.listen.socket != "/run/nixci/socket") [
        ""
        toml.listen.socket
      ];
      socketConfig = lib.optionalAttrs (toml.listen ? mode) { SocketMode = toml.listen.mode; };
    };

    systemd.sockets.nixci-daemon-http = {
      # Off is masked, so that nothing else can pull it in.
      enable = hasHttp;
      wantedBy = optional hasHttp "sockets.target";
      listenStreams = lib.optionals (hasHttp && toml.listen.http != "127.0.0.1:8480") [
        ""
        toml.listen.http
      ];
    };

    networking.firewall.allowedTCPPorts = mkIf (cfg.openFirewall && !cfg.nginx.enable && hasHttp) [
      (lib.toIntBase10 port)
    ];
  };
}
