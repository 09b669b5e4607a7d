# The configurations of all.nix in a whole NixOS, as a check of the flake: it fails at evaluation. `run` here has the tests
# of wrong values, which need a process each, and those that need no nixpkgs.
{ pkgs }:

let
  inherit (import ./evaluate.nix { inherit pkgs; }) failures;
in
if failures == [ ] then
  pkgs.runCommand "nixci-module-tests" { } ''touch "$out"''
else
  throw (builtins.concatStringsSep "\n" failures)
