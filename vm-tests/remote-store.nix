# Three machines: somebody submits over ssh with a key that may do nothing else, and the builds run on a machine that
# knows nothing of nixci.
let
  key = builtins.readFile ./keys/id_ed25519.pub;
in
{
  description = "an upload over ssh-ng, and a second machine as the store that builds it";
  machines = {
    laptop = {
      client.to = "ssh-ng://nixci@ci";
      files."/etc/checks/flake.nix".text = builtins.readFile ./checks/flake.nix;
      sshd = true;
    };
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
        ssh = {
          enable = true;
          keys = [
            {
              name = "laptop";
              inherit key;
            }
          ];
        };
      };
      sshd = true;
      files."/etc/nixci/builder-key" = {
        text = builtins.readFile ./keys/id_ed25519;
        mode = "0600";
      };
    };
    builder.sshd = true;
  };
  script = ./remote-store.py;
}
