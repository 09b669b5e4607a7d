# [keys]
{
  mkOption,
  t,
  left,
  ...
}:

{
  secretKeyFiles = mkOption {
    type = t.listOf t.secret;
    default = [ ];
    example = [ "/etc/nixci/key" ];
    description = ''
      Secret keys by which what is served is signed. `nix key generate-secret --key-name ci.example.org-1` makes one.
    '';
  };

  trustedPublicKeys = left {
    type = t.listOf t.publicKey;
    example = [ "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
    usual = "none";
    description = "Whose signatures let anybody upload what they cover.";
  };
}
