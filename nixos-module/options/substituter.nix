# This host as a client of its own binary cache.
{ mkOption, t, ... }:

{
  enable = mkOption {
    type = t.bool;
    default = false;
    example = true;
    description = ''
      Whether Nix on this host substitutes from the daemon: what any of its stores has built, without copying it here before
      it is needed.
    '';
  };

  publicKey = mkOption {
    type = t.nullOr t.publicKey;
    default = null;
    example = "ci.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    description = "The public half of one of `keys.secretKeyFiles` (`nix key convert-secret-to-public`).";
  };
}
