# The virtual host in front of the daemon.
{ config, lib, ... }:

let
  cfg = config.services.nixci;
  inherit (cfg.internal) rendered hasHttp;
  inherit (rendered.toml) listen;

  # Where somebody on this host reaches an address that stands for all of them.
  address = lib.replaceStrings [ "0.0.0.0:" "[::]:" ] [ "127.0.0.1:" "[::1]:" ] listen.http;
  scheme = if listen ? tls_certificate_file then "https" else "http";
  upstream = "${scheme}://${address}";

  host = if cfg.nginx.host == null then "localhost" else cfg.nginx.host;
  inherit (config.services.nginx.virtualHosts.${host}) forceSSL addSSL onlySSL;
in
{
  config = lib.mkIf (cfg.enable && cfg.nginx.enable) {
    services.nixci.listen.url = lib.mkDefault "${
      if forceSSL || addSSL || onlySSL then "https" else "http"
    }://${host}";

    services.nginx = {
      enable = true;
      virtualHosts.${host}.locations = {
        "/" = {
          proxyPass = upstream;
          recommendedProxySettings = true;
          extraConfig = ''
            # Events and logs are streams, and objects are large: nothing of them is gathered here.
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 1h;
            # The daemon has limits of its own, and says which one it was.
            client_max_body_size 0;
          '';
        };
        # The protocol, after an upgrade of HTTP/1.1. A connection may be silent for as long as a build is.
        "= /connect" = {
          proxyPass = upstream;
          proxyWebsockets = true;
          recommendedProxySettings = true;
          extraConfig = ''
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 1d;
            proxy_send_timeout 1d;
          '';
        };
      };
    };

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [
      80
      443
    ];

    assertions = [
      {
        assertion = cfg.nginx.host != null;
        message = "services.nixci.nginx.enable: the virtual host needs a name; set services.nixci.nginx.host";
      }
      {
        assertion = hasHttp;
        message = "services.nixci.nginx.enable: services.nixci.listen.http is null, so there is nothing to pass on to; give it an address";
      }
    ];
  };
}
