# What no single option can say: whether they fit together. One line each: where, what, and what to do.
{ config, lib, ... }:

let
  inherit (lib)
    all
    any
    concatMap
    elem
    filter
    hasPrefix
    length
    unique
    ;

  cfg = config.services.nixci;
  inherit (cfg.internal) rendered hasHttp;

  check = assertion: message: {
    inherit assertion;
    message = "services.nixci.${message}";
  };

  duplicates =
    names: unique (filter (name: length (filter (other: other == name) names) > 1) names);
  distinct =
    where: what: names:
    map (
      name: check false "${where}: there are two ${what} `${name}`; names must differ"
    ) (duplicates names);

  nameOf = forge: if forge.name == null then forge.kind else forge.name;
  withRepositories = filter (forge: forge.kind != "webhook") cfg.forges;
  repositoryForges = map nameOf withRepositories;
  webhooks = map nameOf (filter (forge: forge.kind == "webhook") cfg.forges);
  listed = lib.concatStringsSep ", ";
  known = names: if names == [ ] then "there are none" else "there are ${listed names}";

  ofForge =
    forge:
    let
      where = "forges: `${nameOf forge}`";
      app = forge.appId != null || forge.privateKeyFile != null;
    in
    [
      (check (
        forge.url != null || elem forge.kind [
          "github"
          "gitlab"
        ]
      ) "${where} needs a `url`")
      (check (
        (forge.appId == null) == (forge.privateKeyFile == null)
      ) "${where} has one of `appId` and `privateKeyFile`; an App needs both")
      (check (!app || forge.tokenFile == null) "${where} has an App and a `tokenFile`; one is enough")
      (check (
        !app || forge.kind == "github"
      ) "${where} has an App, which only GitHub knows; give a `tokenFile`")
      (check (
        forge.form != "checks" || app
      ) "${where} has `form = \"checks\"`, which GitHub takes from Apps only; give `appId` and `privateKeyFile`")
    ];

  ofProject =
    project:
    let
      where = "projects: `${project.name}`";
      or' = given: default: if given == null then default else given;
      job = or' project.jobContext "nixci/{attr}";
    in
    [
      (check (
        project.forge == null || elem project.forge repositoryForges
      ) "${where} is of the forge `${toString project.forge}`, which is none that has repositories; ${known repositoryForges}")
      (check (
        project.forge != null || length repositoryForges < 2
      ) "${where} needs `forge`, as there are several: ${listed repositoryForges}")
      (check (
        lib.hasInfix "{attr}" job || lib.hasInfix "{name}" job
      ) "${where} has a `jobContext` that is the same for all jobs; it needs `{attr}` or `{name}`")
      (check (
        or' project.context "nixci" != or' project.evaluationContext "nixci/evaluation"
      ) "${where} has the same `context` and `evaluationContext`; they must differ")
    ]
    ++ map (
      name:
      check (elem name webhooks) "${where} notifies `${name}`, which is no forge of kind \"webhook\"; ${known webhooks}"
    ) (if project.notify == null then [ ] else project.notify);

  github = "https://token.actions.githubusercontent.com";
  gitlab = "https://gitlab.com";
  ofIssuer =
    oidc:
    let
      where = "oidc: `${oidc.issuer}`";
      kind =
        if oidc.kind != null then
          oidc.kind
        else if oidc.issuer == github then
          "github"
        else if oidc.issuer == gitlab then
          "gitlab"
        else
          "generic";
      alike = filter (
        forge: forge.kind == kind || (kind == "forgejo" && forge.kind == "gitea")
      ) withRepositories;
      isPublic = elem oidc.issuer [
        github
        gitlab
      ];
      isWide = patterns: patterns == null || any (pattern: hasPrefix "*" (toString pattern)) patterns;
    in
    [
      (check (oidc.allow != [ ]) "${where} lets nobody in; add `allow` with `repositories`")
      (check (
        oidc.forge == null || elem oidc.forge repositoryForges
      ) "${where} is of the forge `${toString oidc.forge}`, which is none that has repositories; ${known repositoryForges}")
      (check (
        oidc.forge != null || length alike < 2
      ) "${where} needs `forge`, as there are several of its kind: ${listed (map nameOf alike)}")
    ]
    ++ map (
      rule:
      check (
        !isPublic || !all isWide [
          rule.repositories
          rule.repositoryIds
          rule.ownerIds
        ]
      ) "${where} has a rule in `allow` that lets in everybody who has an account there; name `repositories` by their owner, `repositoryIds` or `ownerIds`"
    ) oidc.allow;

  ofToken =
    token:
    check (
      (token.sha256 == null) != (token.file == null)
    ) "tokens: `${token.name}` needs `sha256` or a `file` with it, and not both; `nixci-daemon hash-token --new` makes one";

  # Secrets that are named by a credential in place of a path.
  named =
    concatMap
      (forge: [
        forge.privateKeyFile
        forge.tokenFile
        forge.webhookSecretFile
      ])
      cfg.forges
    ++ map (token: token.file) cfg.tokens
    ++ cfg.keys.secretKeyFiles
    ++ [
      cfg.listen.tlsKeyFile
      cfg.listen.tlsCertificateFile
    ];
  missing = filter (
    name: name != null && !hasPrefix "/" name && !cfg.credentials ? ${name}
  ) named;

  isLocal = uri: uri == null || elem uri [ "auto" "daemon" ] || hasPrefix "unix://" uri;
  usesLocalStore = cfg.stores == [ ] || any (store: isLocal store.uri) cfg.stores;
  allowed = config.nix.settings.allowed-users or [ "*" ];

  http = rendered.toml.listen.http;
  isLoopback = hasPrefix "127." http || hasPrefix "[::1]" http;
in
{
  config = lib.mkIf cfg.enable {
    assertions =
      distinct "stores" "named" (map (store: store.name) cfg.stores)
      ++ distinct "forges" "named" (map nameOf cfg.forges)
      ++ distinct "tokens" "named" (map (token: token.name) cfg.tokens)
      ++ map (
        issuer: check false "oidc: there are two of `${issuer}`; put all rules into one"
      ) (duplicates (map (oidc: oidc.issuer) cfg.oidc))
      ++ concatMap ofForge cfg.forges
      ++ concatMap ofProject cfg.projects
      ++ concatMap ofIssuer cfg.oidc
      ++ map ofToken cfg.tokens
      ++ map (
        name: check false "credentials: there is none named `${name}`, which a secret is said to be; add it, or name the secret by an absolute path"
      ) (unique missing)
      ++ map (
        name: check false "credentials: the name `${name}` is that of a secret which another option names; choose another one"
      ) (lib.intersectLists rendered.derived (lib.attrNames cfg.credentials))
      ++ [
        (check (
          (cfg.listen.tlsCertificateFile == null) == (cfg.listen.tlsKeyFile == null)
        ) "listen: TLS needs both `tlsCertificateFile` and `tlsKeyFile`")
        (check (
          rendered.toml.state_dir == "/var/lib/nixci"
        ) "settings.state_dir: the units keep the state in /var/lib/nixci; mount another disk there")
        (check (
          !cfg.openFirewall || cfg.nginx.enable || (hasHttp && !isLoopback)
        ) "openFirewall: services.nixci.listen.http is ${if hasHttp then "${http}, which other machines cannot reach" else "null"}; give it an address such as \"[::]:8480\"")
        (check (
          !usesLocalStore || any (user: elem user allowed) [
            "*"
            "nixci"
            "@nixci"
          ]
        ) "stores: nix-daemon does not let in the user nixci; add \"nixci\" to nix.settings.allowed-users")
      ];
  };
}
