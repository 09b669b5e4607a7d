# A virtual host in front of the daemon.
{ mkOption, t, ... }:

{
  enable = mkOption {
    type = t.bool;
    default = false;
    example = true;
    description = ''
      Whether nginx passes a virtual host on to `listen.http`: pages with their events, the binary cache, webhooks, and
      the protocol at `/connect`. TLS is what `services.nginx.virtualHosts.HOST` says, such as `enableACME` and
      `forceSSL`; nixci's own tokens need it.
    '';
  };

  host = mkOption {
    type = t.nullOr t.hostName;
    default = null;
    example = "ci.example.org";
    description = "The name of the virtual host.";
  };
}
