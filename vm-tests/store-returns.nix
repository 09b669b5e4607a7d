# The store that builds disappears in the middle of a build, and returns.
{
  description = "a store machine that disappears and returns";
  machines = {
    ci = {
      daemon = {
        listen.http = null;
        stores = [
          {
            name = "builder";
            uri = "ssh-ng://root@builder?ssh-key=/run/credentials/nixci-daemon.service/builder";
            slots = 2;
          }
        ];
        credentials.builder = "/etc/nixci/builder-key";
      };
      client = { };
      sshd = true;
      files = {
        "/etc/nixci/builder-key" = {
          text = builtins.readFile ./keys/id_ed25519;
          mode = "0600";
        };
        "/etc/checks/flake.nix".text = builtins.readFile ./checks/flake.nix;
      };
    };
    builder = {
      sshd = true;
      nix.extra-sandbox-paths = [ "/gates=/var/lib/gates" ];
    };
  };
  script = ./store-returns.py;
}
