# What the stories submit: a library, what needs it, a check that fails and what it blocks, and builds that wait at a
# gate until the story opens it. No inputs, and builders that need nothing but the /bin/sh of the sandbox.
{
  description = "The checks of the stories";

  outputs =
    { self }:
    let
      # A story writes another word into this file to have everything built anew.
      salt = builtins.readFile ./salt;

      checksFor =
        system:
        let
          build =
            name: inputs: script:
            derivation (
              {
                inherit name system salt;
                builder = "/bin/sh";
                args = [
                  "-c"
                  ''
                    set -eu
                    echo "building ${name}"
                    ${script}
                    echo "${name} is fine" > "$out"
                  ''
                ];
              }
              // inputs
            );
        in
        rec {
          library = build "library" { } ''echo "compiling 12 files"'';
          application = build "application" { inherit library; } ''echo "linking $library"'';
          broken = build "broken" { } ''
            echo "parser.y:17: error: unknown token" >&2
            exit 1
          '';
          blocked = build "blocked" { inherit broken library; } "";
        };

      # Opening a pipe to read from waits for somebody who opens it to write, so that a build stands still without
      # work, and the story that writes knows that the build is there.
      gatedFor =
        system:
        let
          inherit (checksFor system) library;
          gated =
            name: inputs:
            derivation (
              {
                inherit name system salt;
                builder = "/bin/sh";
                args = [
                  "-c"
                  ''
                    set -eu
                    echo "${name} is at its gate"
                    read -r word < /gates/${name}
                    echo "${name} heard $word"
                    echo "$word" > "$out"
                  ''
                ];
              }
              // inputs
            );
        in
        rec {
          first = gated "first" { inherit library; };
          second = gated "second" { inherit library; };
          last = derivation {
            name = "last";
            inherit
              system
              salt
              first
              second
              ;
            builder = "/bin/sh";
            args = [
              "-c"
              "echo done > $out"
            ];
          };
        };

      forEach =
        make:
        builtins.listToAttrs (
          map
            (system: {
              name = system;
              value = make system;
            })
            [
              "x86_64-linux"
              "aarch64-linux"
            ]
        );
    in
    {
      checks = forEach checksFor;
      gated = forEach gatedFor;
      # Nothing of it fails.
      good = forEach (system: {
        inherit (checksFor system) library application;
      });
    };
}
