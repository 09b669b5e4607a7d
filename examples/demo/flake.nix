# Fourteen checks as a project might have them: good ones, a chain, a library that does not build with
# three programs above it, one that does not evaluate, and a slow one. No inputs, no network, and
# builders that need nothing but /bin/sh.
{
  description = "A small project for trying nixci";

  outputs =
    { self }:
    let
      # Pure evaluation reads this as "". `make demo` sets it and evaluates impurely, so that every demo has
      # something to build.
      run = builtins.getEnv "NIXCI_DEMO";

      checksFor =
        system:
        let
          build =
            name: inputs: script:
            derivation (
              {
                inherit name system run;
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

          # A chain: each needs the one before.
          words = build "words" { } ''echo "hello, world" ; echo "3 words checked"'';
          sentence = build "sentence" { inherit words; } ''echo "reading $words"'';
          page = build "page" { inherit sentence; } ''echo "reading $sentence"'';

          # The root cause: what needs it cannot be built, and says so by its name.
          parser = build "parser" { } ''
            echo "compiling grammar.y"
            echo "compiling lexer.l"
            echo "lexer.l:17: error: unknown token 'ELSE'" >&2
            echo "grammar.y:42: error: 3 conflicts, 0 expected" >&2
            exit 1
          '';
          compiler = build "compiler" { inherit parser words; } "";
        in
        {
          inherit words sentence page;
          archive = build "archive" { inherit page words; } ''echo "packing $page"'';
          docs = build "docs" { inherit words; } ''echo "12 pages"'';
          format = build "format" { } ''echo "41 files are well-formed"'';
          licenses = build "licenses" { } ''echo "all of them are free"'';
          lint = build "lint" { } ''echo "no warnings"'';

          inherit parser compiler;
          editor = build "editor" { inherit parser; } "";
          playground = build "playground" { inherit compiler; } "";

          # About eight seconds, with a line every now and then.
          integration = build "integration" { inherit words; } ''
            PATH=/bin:/usr/bin:/run/current-system/sw/bin
            round=1
            while [ "$round" -le 8 ]; do
              echo "round $round of 8"
              if ! sleep 1 2>/dev/null; then
                i=0; while [ "$i" -lt 1000000 ]; do i=$((i + 1)); done
              fi
              round=$((round + 1))
            done
          '';

          unfinished = throw "the check 'unfinished' is still to be written";
        };

      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
    in
    {
      checks = builtins.listToAttrs (
        map (system: {
          name = system;
          value = checksFor system;
        }) systems
      );
    };
}
