# The NixOS module of nixci: services.nixci, the daemon, and services.nixci.client, the command. docs/nixos-options.md
# lists its options.
{
  imports = [
    ./daemon.nix
    ./assertions.nix
    ./ssh.nix
    ./nginx.nix
    ./local.nix
    ./client.nix
  ];
}
