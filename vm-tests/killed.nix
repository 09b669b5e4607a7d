# A daemon that is killed, and a machine that is cut off, in the middle of builds.
{
  description = "kill -9 and a power cut in mid-build lose nothing and report nothing twice";
  machines.ci = {
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
    client = { };
    nix.extra-sandbox-paths = [ "/gates=/var/lib/gates" ];
    files."/etc/checks/flake.nix".text = builtins.readFile ./checks/flake.nix;
  };
  script = ./killed.py;
}
