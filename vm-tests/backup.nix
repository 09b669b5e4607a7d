# The state of one machine, taken while it works, goes on on another.
let
  daemon = {
    listen.http = null;
    stores = [
      {
        name = "here";
        uri = "auto";
        slots = 2;
      }
    ];
  };
  machine = {
    inherit daemon;
    client = { };
    sshd = true;
    nix.extra-sandbox-paths = [ "/gates=/var/lib/gates" ];
    files."/etc/checks/flake.nix".text = builtins.readFile ./checks/flake.nix;
  };
in
{
  description = "a backup beside a working daemon, restored on another machine, which goes on with the queue";
  machines = {
    old = machine;
    new = machine;
  };
  script = ./backup.py;
}
