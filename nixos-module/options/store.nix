# This host as a client of its own daemon.
{ mkOption, t, ... }:

{
  enable = mkOption {
    type = t.bool;
    default = false;
    example = true;
    description = ''
      Whether Nix commands of users of this host use the daemon as their store (`NIX_REMOTE`), so that their builds are
      queued, shared and recorded with all others. Root's do not. Needs `listen.writes = "through"`, which this sets, and a first store
      on this host.
    '';
  };
}
