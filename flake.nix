{
  description = "A Nix-native CI daemon: submit what was evaluated anywhere, and go home";

  inputs.nixpkgs.url = "git+https://github.com/NixOS/nixpkgs?ref=nixpkgs-unstable&shallow=1";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      linux = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      # nixpkgs gives up macOS on x86_64 one day.
      darwin = lib.filter (system: nixpkgs.legacyPackages ? ${system}) [
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      isLinux = system: lib.elem system linux;
      forAll = lib.genAttrs (linux ++ darwin);

      # What `nixci --version` names; nothing where the source came without git.
      commit = self.rev or self.dirtyRev or null;
      of =
        system:
        import ./. {
          inherit system commit;
          pkgs = nixpkgs.legacyPackages.${system};
        };
    in
    {
      # The command runs on macOS too, the daemon on Linux.
      packages = forAll (
        system:
        {
          inherit (of system) nixci;
          default = (of system).nixci;
        }
        // lib.optionalAttrs (isLinux system) { inherit (of system) nixci-daemon; }
      );

      apps = forAll (
        system:
        let
          app = package: name: {
            type = "app";
            program = "${package}/bin/${name}";
            meta = { inherit (package.meta) description; };
          };
        in
        {
          default = app (of system).nixci "nixci";
        }
        // lib.optionalAttrs (isLinux system) {
          demo = app (of system).demo "nixci-demo";
        }
      );

      overlays.default = final: _: {
        nixci = final.callPackage ./nixos-module/package.nix {
          inherit commit;
          program = "nixci";
        };
        nixci-daemon = final.callPackage ./nixos-module/package.nix {
          inherit commit;
          program = "nixci-daemon";
        };
      };

      # With the packages of this flake, unless the configuration says otherwise.
      nixosModules.default =
        { lib, pkgs, ... }:
        let
          packages = self.packages.${pkgs.stdenv.hostPlatform.system};
        in
        {
          imports = [ ./nixos-module ];
          services.nixci = {
            package = lib.mkDefault packages.nixci-daemon;
            client.package = lib.mkDefault packages.nixci;
          };
        };

      checks = forAll (
        system:
        {
          inherit (of system) nixci;
        }
        // lib.optionalAttrs (isLinux system) (
          {
            inherit (of system) nixci-daemon module-tests;
          }
          // lib.mapAttrs' (name: lib.nameValuePair "vm-${name}") (
            lib.filterAttrs (_: lib.isDerivation) (of system).vm-tests
          )
        )
      );

      devShells = forAll (system: {
        default = (of system).shell;
      });

      formatter = forAll (system: nixpkgs.legacyPackages.${system}.nixfmt-tree);
    };
}
