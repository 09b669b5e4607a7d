# `nix-shell`, for those without flakes.
{ ... }@arguments: (import ./. arguments).shell
