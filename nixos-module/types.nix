# Types that refuse what the daemon would refuse, in words that say what would be taken.
{ lib }:

let
  inherit (builtins)
    elemAt
    match
    storeDir
    ;
  inherit (lib) types;

  # The description is all that somebody sees who wrote something else.
  text =
    name: description: check:
    types.addCheck types.str check
    // {
      inherit name description;
      descriptionClass = "noun";
    };
  matching =
    name: description: pattern:
    text name description (value: match pattern value != null);

  port = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
  octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";

  isSecret =
    value:
    match "[A-Za-z0-9._+@-]+" value != null || (match "/[^\n]+" value != null && !inStore value);
  inStore = lib.hasPrefix "${storeDir}/";

  # As daemon/src/config/duration.rs reads it.
  isDuration =
    value:
    let
      parts = match "([0-9]{1,12}) *(s|m|min|h|d)" value;
      seconds = {
        s = 1;
        m = 60;
        min = 60;
        h = 3600;
        d = 86400;
      };
    in
    parts != null && lib.toIntBase10 (elemAt parts 0) * seconds.${elemAt parts 1} <= 3650 * 86400;

  places = "\\{(attr|set|kind|system|name|project|forge)[}]";
in
{
  inherit (types)
    attrsOf
    bool
    enum
    listOf
    nonEmptyListOf
    nullOr
    str
    submodule
    ;

  duration = text "duration" "duration such as 90s, 10m, 12h or 7d, of at most 3650d" isDuration;

  interval = text "interval" "duration such as 12h or 7d, of at most 3650d and not none, or \"off\"" (
    value: value == "off" || (isDuration value && match "0+ *[a-z]+" value == null)
  );

  size = matching "size" "size such as \"10 GiB\" or \"500 MB\", or \"off\"" "off|[0-9]+ *(KiB|MiB|GiB|TiB|kB|MB|GB|TB|B)";

  bytes =
    least: most:
    types.ints.between least most
    // {
      description = "number of bytes between ${toString least} and ${toString most}";
    };

  # A limit that lets nothing pass is of no use.
  limit = types.ints.positive;
  count = types.ints.unsigned;
  between = types.ints.between;
  number = types.ints.u32;
  positiveNumber = types.ints.between 1 4294967295;

  name = matching "name" "name of letters, digits and ._+@-, of at most 64 characters" "[A-Za-z0-9._+@-]{1,64}";

  user =
    types.either types.ints.u32 (
      matching "user" "name of a user, \"@group\", or \"*\" for everybody" "\\*|@?[!-)+.0-9;-?A-~-]{1,256}"
    )
    // {
      description = "name or number of a user, \"@group\", or \"*\" for everybody";
    };

  mode = matching "mode" "mode in octal such as \"0660\"" "0?[0-7]{1,3}";

  socketPath = matching "socket" "absolute path of at most 107 bytes" "/[^\n]{1,106}";

  address = matching "address" "address and port such as \"127.0.0.1:8480\" or \"[::]:8480\"" "(${octet}(\\.${octet}){3}|\\[[0-9a-fA-F:.]+[]])(:${port})";

  url = matching "url" "address such as \"https://example.org\", without a user or password" "https?://[^/@#[:space:]]+(/[^@#[:space:]]*)?";

  issuer = matching "issuer" "address as the tokens of the issuer write it, such as \"https://gitlab.example.org\"; http is taken on this host only" "https://[^/@#?[:space:]]+(/[^@#?[:space:]]*)?|http://(127\\.0\\.0\\.1|localhost|\\[::1[]])(:[0-9]+)?(/[^@#?[:space:]]*)?";

  storeUri = matching "store" "store: auto, daemon, unix://SOCKET, ssh-ng://[USER@]HOST, local or local?root=DIR" "(auto|daemon|local|unix://(/[^?[:space:]]*)?|ssh-ng://[^-?/[:space:]][^?/[:space:]]*/?|local://(/[^?[:space:]]*)?|/[^?[:space:]]*)(\\?[^[:space:]]*)?";

  # What the command nixci connects to.
  daemonUri = matching "daemon" "address of a daemon: unix:///PATH, ssh-ng://[USER@]HOST or https://HOST" "(unix:///|ssh-ng://|https?://)[^[:space:]]+";

  # What holds a secret must not be in the store, and what is said as a Nix path would be copied there.
  secret = text "secret" "absolute path of a file outside of ${storeDir}, which everybody can read, or the name of one of services.nixci.credentials" isSecret;
  secretPath = text "file" "absolute path of a file outside of ${storeDir}, which everybody can read" (
    value: match "/[^\n]+" value != null && !inStore value
  );
  certificate = matching "file" "absolute path, or the name of one of services.nixci.credentials" "[A-Za-z0-9._+@-]+|/[^\n]+";

  directory = matching "directory" "absolute path without a slash at its end" "(/[^/\n]+)+";

  sha256 = matching "hash" "SHA-256 in 64 hexadecimal digits, as `nixci-daemon hash-token` prints it" "[0-9a-fA-F]{64}";

  publicKey = matching "publicKey" "public key of Nix such as \"cache.example.org-1:\" and 44 characters" "[^:[:space:]]+:[A-Za-z0-9+/]{43}=";

  sshKey = matching "sshKey" "one line of a public ssh key such as \"ssh-ed25519 AAAA…\", without options" "(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\\.com|sk-ecdsa-sha2-nistp256@openssh\\.com) [A-Za-z0-9+/]+={0,3}( [^\n]*)?\n?";

  time = matching "time" "day such as \"2027-01-01\", or time such as \"2027-01-01T12:00:00Z\"" "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])(T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\\.[0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2}))?";

  # Where a status is named: what stands in braces is filled in.
  template = matching "template" "text in which {attr}, {set}, {kind}, {system}, {name}, {project} and {forge} are filled in, and nothing else is in braces" "([^{]|${places})*([^{[:space:]]|${places})([^{]|${places})*";

  logFilter = matching "logFilter" "level such as \"info\", or levels such as \"info,nixci_daemon=debug\"" "[^[:space:]]+";

  hostName = matching "hostName" "name of a host such as \"ci.example.org\"" "[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?";

  # A number, which Nix, JSON and TOML may also write as text.
  id =
    types.either types.ints.unsigned (matching "id" "number, also as text" "[^[:space:]]+")
    // {
      description = "number, also as text";
    };

  nonEmpty = matching "text" "text that is not empty" "[^\n]+";
}
