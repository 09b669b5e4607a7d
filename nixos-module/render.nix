# What the values of services.nixci.* mean: the configuration as TOML knows it, which files systemd has to hand
# to the service, and the keys that ssh lets in.
#
#   nix-instantiate --eval --strict --json --expr 'import ./nixos-module/render.nix { listen.writes = "through"; }'
#
# Builtins only, so that it also runs where there is no nixpkgs: on the Debian machines of the VM tests the same
# values make the same files. The values are either what somebody wrote, or all options with `null` for what is
# left to the daemon. Types are the business of options.nix, and the daemon checks the result once more
# (`nixci-daemon check-config`).
values:

let
  inherit (builtins)
    attrNames
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    genList
    head
    isAttrs
    isList
    isString
    length
    listToAttrs
    mapAttrs
    removeAttrs
    replaceStrings
    split
    stringLength
    substring
    ;

  unit = "nixci-daemon.service";

  # Where systemd puts credentials. The daemon takes the name alone for a secret; what it only takes as a path has to
  # be named in full.
  inCredentials = name: "/run/credentials/${unit}/${name}";

  # Options that say something about the host, and nothing that the daemon reads in its configuration.
  ofTheHost = [
    "enable"
    "package"
    "credentials"
    "logFormat"
    "logLevel"
    "nginx"
    "openFirewall"
    "program"
    "settings"
    "ssh"
    "store"
    "substituter"
  ];

  # Options and their names in TOML, where that is not the option's own name in snake_case.
  tableNames = {
    stores = "store";
    forges = "forge";
    projects = "project";
    tokens = "token";
  };

  inTheFile = [
    "cache"
    "forges"
    "keys"
    "limits"
    "listen"
    "oidc"
    "projects"
    "retention"
    "storeDir"
    "stores"
    "tokens"
  ];

  known =
    let
      strange = filter (name: !elem name (ofTheHost ++ inTheFile)) (attrNames values);
    in
    if strange == [ ] then
      values
    else
      throw "services.nixci has no option `${head strange}`; known are ${concatStringsSep ", " (inTheFile ++ ofTheHost)}";

  # logFormat -> log_format
  snake =
    name:
    concatStringsSep "" (
      map (part: if isString part then part else "_${lower (head part)}") (split "([A-Z])" name)
    );

  lower = replaceStrings upperCase lowerCase;
  letters =
    text: filter (letter: letter != "") (genList (at: substring at 1 text) (stringLength text));
  upperCase = letters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  lowerCase = letters "abcdefghijklmnopqrstuvwxyz";

  # Names in snake_case at every depth, without what is not set.
  snaked =
    value:
    if isAttrs value then
      listToAttrs (
        map (name: {
          name = snake name;
          value = snaked value.${name};
        }) (filter (name: value.${name} != null && snaked value.${name} != { }) (attrNames value))
      )
    else if isList value then
      map snaked value
    else
      value;

  # The right one wins; tables are merged, lists are not.
  merge =
    left: right:
    left
    // mapAttrs (
      name: value:
      if isAttrs value && isAttrs (left.${name} or null) then merge left.${name} value else value
    ) right;

  isPath = value: isString value && substring 0 1 value == "/";

  # A file given by an absolute path becomes a credential of this name; anything else is the name of one that is there
  # already, or nothing.
  credential =
    {
      name,
      path,
      refer ? (name: name),
    }:
    if isPath path then
      {
        value = refer name;
        credentials.${name} = path;
      }
    else
      {
        value = if path == null then null else refer path;
        credentials = { };
      };

  # Replaces the files that are named in some attributes of an attribute set.
  withCredentials =
    files: set:
    let
      present = filter (file: set ? ${file.attribute}) files;
      found = map (
        file:
        {
          inherit (file) attribute;
        }
        // credential (
          removeAttrs file [ "attribute" ]
          // {
            path = set.${file.attribute};
          }
        )
      ) present;
    in
    {
      value =
        set
        // listToAttrs (
          map (file: {
            name = file.attribute;
            inherit (file) value;
          }) found
        );
      credentials = union (map (file: file.credentials) found);
    };

  union = foldl' (all: more: all // more) { };

  listen = withCredentials [
    # Both or neither: the certificate is read again when it changes, and must not come without its key.
    {
      attribute = "tlsCertificateFile";
      name = "tls-certificate";
      refer = inCredentials;
    }
    {
      attribute = "tlsKeyFile";
      name = "tls-key";
    }
  ] (
    let
      given = known.listen or { };
    in
    # Of all options this is the one whose `null` says something: no HTTP.
    given // (if given ? http then { http = if given.http == null then "off" else given.http; } else { })
  );

  forges = map (
    forge:
    let
      given = forge.name or null;
      name = if given == null then forge.kind or "forge" else given;
    in
    withCredentials [
      {
        attribute = "privateKeyFile";
        name = "forge-${name}-private-key";
      }
      {
        attribute = "tokenFile";
        name = "forge-${name}-token";
      }
      {
        attribute = "webhookSecretFile";
        name = "forge-${name}-webhook-secret";
      }
    ] forge
  ) (known.forges or [ ]);

  tokens = map (
    token:
    withCredentials [
      {
        attribute = "file";
        name = "token-${token.name or "unnamed"}";
        refer = inCredentials;
      }
    ] token
  ) (known.tokens or [ ]);

  secretKeys =
    let
      files = (known.keys or { }).secretKeyFiles or [ ];
    in
    genList (
      nth:
      credential {
        name = "secret-key-${toString (nth + 1)}";
        path = elemAt files nth;
      }
    ) (length files);

  keys =
    (known.keys or { })
    // {
      secretKeyFiles = if secretKeys == [ ] then null else map (key: key.value) secretKeys;
    };

  # What holds for a service of the system; without it the daemon would take the folders of its user.
  base = {
    state_dir = "/var/lib/nixci";
    listen = {
      socket = "/run/nixci/socket";
      http = "127.0.0.1:8480";
    };
  };

  # An empty list of tables is the same as none.
  given = removeEmpty (
    listToAttrs (
      map (name: {
        name = tableNames.${name} or (snake name);
        value = snaked sections.${name};
      }) (filter (name: sections ? ${name}) inTheFile)
    )
  );
  removeEmpty =
    set:
    removeAttrs set (
      filter (
        name:
        elem set.${name} [
          null
          [ ]
          { }
        ]
      ) (attrNames set)
    );
  sections = known // {
    inherit keys;
    listen = listen.value;
    forges = map (forge: forge.value) forges;
    tokens = map (token: token.value) tokens;
  };

  toml = merge (merge base given) (
    let
      settings = known.settings or null;
    in
    if settings == null then { } else settings
  );

  ssh = known.ssh or { };
  # A key as it is in a file, which ends in a newline.
  oneLine = replaceStrings [ "\n" ] [ "" ];
  program = known.program or "nixci-daemon";
  forcedCommand =
    key:
    concatStringsSep " " (
      [
        program
        "stdio"
      ]
      ++ (
        if toml.listen.socket == base.listen.socket then
          [ ]
        else
          [
            "--socket"
            toml.listen.socket
          ]
      )
      ++ [
        "--principal"
        key.name
      ]
      ++ (if key.trusted or false then [ "--trusted" ] else [ ])
    );

  derived = union (
    [ listen.credentials ] ++ map (each: each.credentials) (forges ++ tokens ++ secretKeys)
  );

  optional = name: value: if value == null then { } else { ${name} = value; };
in
{
  inherit toml;

  # `LoadCredential=name:path`.
  credentials = derived // (known.credentials or { });

  # Those of them that got their name here.
  derived = attrNames derived;

  # The file `authorized_keys` of the user nixci.
  authorizedKeys =
    if ssh.enable or false then
      concatStringsSep "" (
        map (key: "command=\"${forcedCommand key}\",restrict ${oneLine key.key}\n") (ssh.keys or [ ])
      )
    else
      "";

  # Environment and arguments of the service.
  environment = optional "NIXCI_LOG" (known.logLevel or null);
  arguments =
    let
      format = known.logFormat or null;
    in
    if format == null then [ ] else [ "--log-format=${format}" ];
}
