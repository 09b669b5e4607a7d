# One machine: the daemon in front of the machine's own nix-daemon, and a user who submits.
{
  description = "a user submits to the daemon of the same machine, which builds on its nix-daemon";
  machines.ci = {
    daemon = {
      listen.http = "127.0.0.1:8480";
      stores = [
        {
          name = "here";
          uri = "auto";
          slots = 2;
        }
      ];
    };
    client = { };
    users = [ "alice" ];
    files."/etc/checks/flake.nix".text = builtins.readFile ./checks/flake.nix;
    tools = [ "curl" ];
  };
  script = ./local-store.py;
}
