# docs/nixos-options.md, from the options themselves; `nixos-module/tests/run --update` writes it.
{ lib }:

let
  inherit (import ./module.nix { inherit lib; } { }) options;
  ours =
    lib.filter (option: option.visible && !option.internal)
      (lib.optionAttrSetToDocList { services = { inherit (options.services) nixci; }; });

  isDaemon = option: !lib.hasPrefix "services.nixci.client" option.name;

  code = text: if lib.hasInfix "\n" text then "\n\n```nix\n${text}\n```" else " `${text}`";
  value =
    title: value:
    if value == null then
      ""
    else if value._type or "" == "literalMD" then
      "${title}: ${value.text}\n\n"
    else
      "${title}:${code (lib.removeSuffix "\n" value.text)}\n\n";

  entry =
    option:
    "### `${option.name}`\n\n"
    + "${lib.trim (option.description.text or option.description)}\n\n"
    + "Type: ${lib.replaceStrings [ "<" ] [ "\\<" ] option.type}\n\n"
    + value "Default" (option.default or null)
    + value "Example" (option.example or null);

  section = title: options: "## ${title}\n\n" + lib.concatMapStrings entry (lib.sort (a: b: a.name < b.name) options);
in
''
  # Options of the NixOS module

  Made from `nixos-module/options` by `nixos-module/tests/run --update`; change it there. `null` leaves a value to the
  daemon. The names are those of `nixci.toml` in another spelling: `limits.buildTime` is `build_time` in `[limits]`, and an
  entry of `stores` is a `[[store]]`.

''
+ section "The daemon" (lib.filter isDaemon ours)
+ lib.removeSuffix "\n" (section "The command" (lib.filter (option: !isDaemon option) ours))
