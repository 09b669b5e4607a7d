# A forge on another machine is told, also after it could not be reached, and asks for less when a pull request closes.
{
  description = "statuses on a forge, over its absence, and its webhooks";
  machines = {
    ci = {
      daemon = {
        listen = {
          http = "0.0.0.0:8480";
          url = "http://ci:8480";
        };
        openFirewall = true;
        forges = [
          {
            kind = "forgejo";
            url = "http://forge:3000";
            tokenFile = "/etc/nixci/forgejo-token";
            webhookSecretFile = "/etc/nixci/forgejo-secret";
          }
        ];
        projects = [
          {
            name = "acme/*";
            forge = "forgejo";
          }
        ];
      };
      client = { };
      nix.extra-sandbox-paths = [ "/gates=/var/lib/gates" ];
      files = {
        "/etc/nixci/forgejo-token" = {
          text = "a-token-of-the-stories";
          mode = "0600";
        };
        "/etc/nixci/forgejo-secret" = {
          text = "a-secret-of-the-stories";
          mode = "0600";
        };
        "/etc/checks/flake.nix".text = builtins.readFile ./checks/flake.nix;
      };
    };
    forge = {
      tools = [ "python3" ];
      files."/etc/forge.py".text = builtins.readFile ./checks/forge.py;
    };
  };
  script = ./forge.py;
}
