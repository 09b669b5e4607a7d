# This host as a client of its own daemon: as a substituter, and as the store of its users.
{ config, lib, ... }:

let
  cfg = config.services.nixci;
  inherit (cfg.internal) rendered hasHttp;
  inherit (rendered.toml) listen;
  address = lib.replaceStrings [ "0.0.0.0:" "[::]:" ] [ "127.0.0.1:" "[::1]:" ] listen.http;
in
{
  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      (lib.mkIf cfg.substituter.enable {
        nix.settings = {
          substituters = [ "http://${address}" ];
          trusted-public-keys = lib.optional (
            cfg.substituter.publicKey != null
          ) cfg.substituter.publicKey;
        };

        assertions = [
          {
            assertion = cfg.substituter.publicKey != null;
            message = "services.nixci.substituter.enable: Nix takes nothing that is not signed by a key it trusts; set services.nixci.substituter.publicKey";
          }
          {
            assertion = (rendered.toml.keys or { }).secret_key_files or [ ] != [ ];
            message = "services.nixci.substituter.enable: the daemon signs nothing; set services.nixci.keys.secretKeyFiles";
          }
          {
            assertion = hasHttp;
            message = "services.nixci.substituter.enable: services.nixci.listen.http is null; give it an address";
          }
          {
            assertion = !(listen ? tls_certificate_file);
            message = "services.nixci.substituter.enable: the certificate is not one of ${address}; name the daemon by its address in nix.settings.substituters instead";
          }
          {
            assertion = (rendered.toml.cache or { }).serve or true;
            message = "services.nixci.substituter.enable: services.nixci.cache.serve is false; leave it out";
          }
          {
            assertion = listen.http_read or "everyone" == "everyone";
            message = "services.nixci.substituter.enable: services.nixci.listen.httpRead is \"token\", and Nix has none; name the daemon in nix.settings.substituters with a netrc-file instead";
          }
        ];
      })

      (lib.mkIf cfg.store.enable {
        services.nixci.listen.writes = lib.mkDefault "through";

        # Root's commands do not depend on the daemon: they are how it is mended.
        environment.extraInit = ''
          if [ "$(id -u)" != 0 ]; then
            export NIX_REMOTE=unix://${listen.socket}
          fi
        '';

        assertions = [
          {
            assertion = listen.writes or "spool" == "through";
            message = "services.nixci.store.enable: services.nixci.listen.writes is \"spool\", and Nix looks for what it wrote on the disk; set it to \"through\"";
          }
        ];
      })
    ]
  );
}
