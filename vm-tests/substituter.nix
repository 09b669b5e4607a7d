# A machine that substitutes over HTTP what the daemon's store has built, and one whose `store` is the daemon.
let
  key = builtins.readFile ./keys/id_ed25519.pub;
in
{
  description = "clients fetch from the daemon as a substituter, and use it as their store";
  machines = {
    ci = {
      daemon = {
        listen.http = "0.0.0.0:8480";
        openFirewall = true;
        keys.secretKeyFiles = [ "/etc/nixci/key" ];
        cache.priority = 30;
        ssh = {
          enable = true;
          keys = [
            {
              name = "thin";
              inherit key;
            }
          ];
        };
      };
      client = { };
      sshd = true;
      files = {
        "/etc/nixci/key" = {
          text = builtins.readFile ./keys/ci.secret;
          mode = "0600";
        };
        "/etc/checks/flake.nix".text = builtins.readFile ./checks/flake.nix;
      };
    };
    fetcher = {
      nix = {
        substituters = [ "http://ci:8480" ];
        trusted-public-keys = [ (builtins.readFile ./keys/ci.public) ];
      };
      tools = [ "curl" ];
    };
    thin = {
      nix.store = "ssh-ng://nixci@ci";
      files."/etc/checks/flake.nix".text = builtins.readFile ./checks/flake.nix;
      sshd = true;
    };
  };
  script = ./substituter.py;
}
