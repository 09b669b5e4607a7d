# The configurations of all.nix in a whole NixOS. What is wrong is in `failures`, and the rest is for whoever
# wants to look.
{ pkgs }:

let
  lib = import (pkgs.path + "/lib");
  configurations = import ./all.nix;

  # Named packages, so that a snapshot reads the same with every nixpkgs.
  package =
    name:
    derivation {
      inherit name;
      inherit (pkgs.stdenv.hostPlatform) system;
      builder = "/bin/sh";
    }
    // {
      meta.mainProgram = name;
    };

  nixos =
    {
      daemon,
      client,
      host,
    }:
    import (pkgs.path + "/nixos/lib/eval-config.nix") {
      system = null;
      inherit lib;
      modules = [
        ../.
        host
        {
          nixpkgs.pkgs = pkgs;
          system.stateVersion = "24.05";
          documentation.enable = false;
          boot.loader.grub.enable = false;
          fileSystems."/".device = "/dev/disk";
          services.nixci = daemon // {
            package = package "nixci-daemon-of-a-test";
            client = client // {
              package = package "nixci-of-a-test";
            };
          };
        }
      ];
    };

  systems = lib.mapAttrs (_: nixos) configurations;
  evaluated = lib.mapAttrs (
    _: system: {
      inherit (system.config.services.nixci.internal.rendered) toml credentials authorizedKeys;
    }
  ) systems;

  # Assertions of ours, and of what we set of others.
  unmet = lib.concatLists (
    lib.mapAttrsToList (
      name: system:
      map (failed: "${name}: ${failed.message}") (
        lib.filter (each: !each.assertion) system.config.assertions
      )
    ) systems
  );

  # What the module makes of all options is what render.nix makes of those that are set, but for what one option says
  # about another.
  bySomebodyElse = {
    guarded = { };
    open.listen = {
      url = "https://ci.example.org";
      writes = "through";
    };
  };
  differing = lib.concatLists (
    lib.mapAttrsToList (
      name: values:
      let
        direct = import ../render.nix values.daemon;
        expected = lib.recursiveUpdate direct.toml bySomebodyElse.${name};
      in
      lib.optional (
        evaluated.${name}.toml != expected
      ) "${name}: the module makes ${builtins.toJSON evaluated.${name}.toml} of what render.nix makes ${builtins.toJSON expected} of"
      ++ lib.optional (
        evaluated.${name}.credentials != direct.credentials
      ) "${name}: the credentials of the module and of render.nix differ"
    ) configurations
  );

  # Every option has, in one of the configurations, a value that is not its default.
  options =
    lib.filter (option: option.visible && !option.internal && option.type != "package" && option.type != "submodule")
      (lib.optionAttrSetToDocList { services = { inherit (systems.open.options.services) nixci; }; });
  reach =
    path: value:
    if path == [ ] then
      [ value ]
    else if lib.head path == "*" then
      lib.concatMap (reach (lib.tail path)) value
    else if value ? ${lib.head path} then
      reach (lib.tail path) value.${lib.head path}
    else
      [ ];
  given =
    option:
    let
      path = lib.drop 2 option.loc;
    in
    lib.concatMap (
      values: reach path (values.daemon // { inherit (values) client; })
    ) (lib.attrValues configurations);
  asText = value: lib.options.renderOptionValue value;
  untouched = lib.filter (
    option:
    !lib.any (value: (asText value).text != (option.default or { text = null; }).text) (given option)
  ) options;

  # What an option gives as an example, it takes.
  all =
    option:
    [ option ]
    ++ lib.concatMap all (
      lib.collect lib.isOption (removeAttrs (option.type.getSubOptions option.loc) [ "_module" ])
    );
  refusing = lib.filter (
    option: option ? example && option.example._type or null == null && !option.type.check option.example
  ) (lib.concatMap all (lib.collect lib.isOption systems.open.options.services.nixci));

  # What other modules are told, as far as it is ours: store paths differ with every nixpkgs.
  units = system: name: system.config.systemd.units.${name}.text;
  inherit (systems) guarded open;
  plain = value: builtins.unsafeDiscardStringContext "${value}";
  says = what: text: part: lib.optional (!lib.hasInfix (plain part) (plain text)) "${what} lacks `${part}`, in:\n${text}";
  is =
    what: value: expected:
    lib.optional (value != expected)
      "${what} is ${builtins.toJSON value}, and not ${builtins.toJSON expected}";
  service = units guarded "nixci-daemon.service";
  location = name: open.config.services.nginx.virtualHosts."ci.example.org".locations.${name};
  unexpected =
    lib.concatMap (says "the service of `guarded`" service) [
      "Environment=\"NIXCI_LOG=info,nixci_daemon=debug\"\n"
      "ExecStart=\nExecStart=${guarded.config.services.nixci.package}/bin/nixci-daemon --log-format=json\n"
      "LoadCredential=arm:/etc/nixci/arm-key\n"
      "LoadCredential=forge-github-private-key:/etc/nixci/github.pem\n"
      "LoadCredential=forge-chat-webhook-secret:/etc/nixci/chat\n"
      "LoadCredential=secret-key-1:/etc/nixci/key\n"
      "LoadCredential=tls-certificate:/var/lib/acme/ci.example.org/fullchain.pem\n"
      "LoadCredential=token-runner:/etc/nixci/runner.sha256\n"
      "WantedBy=multi-user.target\n"
      "X-Reload-Triggers="
      "X-Restart-Triggers="
      "X-StopIfChanged=false\n"
      "${plain guarded.config.nix.package}/bin:${plain guarded.config.programs.ssh.package}/bin:"
    ]
    ++ says "the socket of `guarded`" (units guarded "nixci-daemon.socket") "ListenStream=\nListenStream=/run/ci/socket\n"
    ++ says "the socket of `guarded`" (units guarded "nixci-daemon.socket") "SocketMode=0660\n"
    ++ says "the port of `guarded`" (units guarded "nixci-daemon-http.socket") "ListenStream=\nListenStream=[::]:8481\n"
    ++ says "what makes the configuration" guarded.config.environment.etc."nixci/nixci.toml".source.buildCommand "/bin/nixci-daemon check-config /nix/store/"
    ++ is "whether the port of `open` is another" (lib.hasInfix "ListenStream" (units open "nixci-daemon-http.socket")) false
    ++ is "whether the service of `open` is started otherwise" (lib.hasInfix "ExecStart" (units open "nixci-daemon.service")) false
    ++ is "open ports of `guarded`" guarded.config.networking.firewall.allowedTCPPorts [ 22 8481 ]
    ++ is "open ports of `open`" open.config.networking.firewall.allowedTCPPorts [ 80 443 ]
    ++ is "NIXCI_TO of `guarded`" guarded.config.environment.variables.NIXCI_TO "https://ci.example.org:8481"
    ++ says "the environment of `open`" open.config.environment.extraInit "export NIX_REMOTE=unix:///run/nixci/socket\n"
    ++ is "whether `open` substitutes from itself" (lib.elem "http://127.0.0.1:8480" open.config.nix.settings.substituters) true
    ++ is "whether `open` trusts its key" (lib.elem configurations.open.daemon.substituter.publicKey open.config.nix.settings.trusted-public-keys) true
    ++ is "what nginx passes on to" (location "/").proxyPass "http://127.0.0.1:8480"
    ++ is "whether nginx passes upgrades on" (location "= /connect").proxyWebsockets true
    ++ is "keys of the user" guarded.config.users.users.nixci.openssh.authorizedKeys.keys [
      "command=\"${guarded.config.services.nixci.package}/bin/nixci-daemon stdio --socket /run/ci/socket --principal laptop --trusted\",restrict ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBH9BCpKRxNDR4VLVLcTcFmVOaYDxAqHw0mGH5Wr2dqN me@laptop"
    ]
    ++ is "the programs of `guarded`" (lib.sort lib.lessThan (lib.filter (lib.hasSuffix "-of-a-test") (map lib.getName guarded.config.environment.systemPackages))) [
      "nixci-daemon-of-a-test"
      "nixci-of-a-test"
    ];
in
{
  failures =
    unmet
    ++ differing
    ++ map (option: "${option.name} has its default in all configurations of all.nix") untouched
    ++ map (option: "${lib.showOption option.loc} refuses its example") refusing
    ++ unexpected;

  inherit evaluated;
  optionNames = map (option: option.name) options;
}
