# Stock Nix and nixci over ssh: `ssh-ng://nixci@host`.
{
  mkOption,
  t,
  listOfTables,
  ...
}:

{
  enable = mkOption {
    type = t.bool;
    default = false;
    example = true;
    description = ''
      Whether holders of `keys` reach the daemon as `ssh-ng://nixci@host`. Their keys run `nixci-daemon stdio` and nothing
      else. Needs `services.openssh.enable`.
    '';
  };

  keys = listOfTables {
    description = "Who comes in by which key.";
    example = [
      {
        name = "laptop";
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBH9BCpKRxNDR4VLVLcTcFmVOaYDxAqHw0mGH5Wr2dqN me@laptop";
      }
    ];
    options = {
      name = mkOption {
        type = t.name;
        example = "laptop";
        description = "Who holds it, for records.";
      };

      key = mkOption {
        type = t.sshKey;
        example = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBH9BCpKRxNDR4VLVLcTcFmVOaYDxAqHw0mGH5Wr2dqN";
        description = "The public key, as in `authorized_keys`, without options.";
      };

      trusted = mkOption {
        type = t.bool;
        default = false;
        example = true;
        description = "Whether who holds it may add what carries no proof of its content, as `listen.trustedUsers` may.";
      };
    };
  };
}
