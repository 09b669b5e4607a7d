# The state of an earlier version, with an evaluation that was done and one that was not, under this version.
# `previous/record` says how it was made.
{
  description = "an upgrade takes the state of the previous version over, and goes on with its queue";
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
    nix.extra-sandbox-paths = [ "/gates=/var/lib/gates" ];
    tools = [ "curl" ];
    files."/etc/previous.tar.gz.base64".text = builtins.readFile ./previous/state.tar.gz.base64;
  };
  script = ./upgrade.py;
}
