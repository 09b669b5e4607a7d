# The command and the daemon, from this source: `program` says which. Two derivations and not one with two outputs, so
# that the command builds where the daemon does not run, and that neither brings the other along.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
  coreutils,
  program ? "nixci",
  # What `--version` says beside the number.
  commit ? null,
}:

let
  isDaemon = program == "nixci-daemon";
  canRun = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
  manifest = lib.importTOML ../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = program;
  inherit (manifest.workspace.package) version;

  # Only what is compiled or installed: a changed document or test of machines builds nothing again.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.lock
      ../Cargo.toml
      ../cli
      ../daemon
      ../protocol
      ../store
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [
    "--package"
    program
  ];

  # SQLite, zstd and AWS-LC are compiled from what their crates bring, with nothing but the C compiler of stdenv: AWS-LC has
  # its bindings ready for the platforms below, so neither CMake nor libclang is asked for.
  nativeBuildInputs = [ installShellFiles ];

  env = lib.optionalAttrs (commit != null) { NIXCI_COMMIT = commit; };

  # The tests talk to real peers: nix-daemons of three versions, sshd, nginx, emulators of forges. There are none of
  # them in a build; `make test` brings them, and the VM tests run what is built here.
  doCheck = false;

  postInstall =
    lib.optionalString isDaemon ''
      # systemd runs no `kill` by its name, and NixOS has none in /bin.
      for unit in daemon/systemd/*.service daemon/systemd/*.socket; do
        substitute "$unit" "$TMPDIR/unit" \
          --replace-quiet @bindir@ "$out/bin" \
          --replace-quiet /bin/kill ${coreutils}/bin/kill
        install -D -m 0644 "$TMPDIR/unit" "$out/lib/systemd/system/$(basename "$unit")"
      done
      install -D -m 0644 daemon/systemd/nixci.sysusers "$out/lib/sysusers.d/nixci.conf"
      install -D -m 0644 daemon/systemd/nixci.tmpfiles "$out/lib/tmpfiles.d/nixci.conf"
    ''
    + lib.optionalString canRun ''
      for shell in bash zsh fish; do
        "$out/bin/${program}" completions "$shell" >"$TMPDIR/${program}.$shell"
      done
      installShellCompletion --cmd ${program} --bash "$TMPDIR/${program}.bash" \
        --zsh "$TMPDIR/${program}.zsh" --fish "$TMPDIR/${program}.fish"
      mkdir "$TMPDIR/man"
      "$out/bin/${program}" man "$TMPDIR/man"
      installManPage "$TMPDIR"/man/*
    '';

  doInstallCheck = canRun;
  installCheckPhase = ''
    runHook preInstallCheck
    "$out/bin/${program}" --version | grep -F ${manifest.workspace.package.version}
    ${lib.optionalString isDaemon ''
      grep -rF @bindir@ "$out/lib" && exit 1
      HOME=$TMPDIR XDG_RUNTIME_DIR=$TMPDIR "$out/bin/nixci-daemon" check-config /dev/null
    ''}
    runHook postInstallCheck
  '';

  meta = {
    description =
      if isDaemon then
        "CI daemon for Nix: takes derivations, builds them on Nix stores, remembers what became of them"
      else
        "Submit Nix builds to a nixci daemon and read what became of them";
    license = [
      lib.licenses.mit
      lib.licenses.asl20
    ];
    mainProgram = program;
    platforms =
      let
        ready = [
          "x86_64-linux"
          "aarch64-linux"
        ];
      in
      if isDaemon then
        ready
      else
        ready
        ++ [
          "x86_64-darwin"
          "aarch64-darwin"
        ];
  };
}
