# What somebody might write, where it is refused, and by which words. `told` is what the module says at evaluation;
# `daemon` is what the daemon says about the same configuration, where it sees it at all.
let
  store = value: { stores = [ ({ name = "a"; } // value) ]; };
  forge = value: { forges = [ value ]; };
  github = value: forge ({ kind = "github"; } // value);
  project = value: {
    forges = [
      { kind = "github"; }
      {
        kind = "webhook";
        name = "chat";
        url = "https://chat.example.org";
      }
    ];
    projects = [ ({ name = "acme/*"; } // value) ];
  };
  oidc = value: {
    oidc = [
      (
        {
          issuer = "https://git.example.org";
          allow = [ { repositories = [ "acme/*" ]; } ];
        }
        // value
      )
    ];
  };
  token = value: { tokens = [ ({ name = "a"; } // value) ]; };
  hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
  ssh = key: {
    ssh = {
      enable = true;
      keys = [ ({ name = "a"; } // key) ];
    };
  };
  entry = values: told: { inherit values told; };
  both = values: told: daemon: { inherit values told daemon; };
in
[
  # listen
  (both { listen.socket = "run/nixci"; } "absolute path of at most 107 bytes" "must be an absolute path")
  (both { listen.socket = "/run/${"0123456789" + "0123456789" + "0123456789" + "0123456789" + "0123456789" + "0123456789" + "0123456789" + "0123456789" + "0123456789" + "0123456789" + "0123456789"}"; } "absolute path of at most 107 bytes" "longer than the 107 bytes")
  (both { listen.mode = "rw-rw----"; } "mode in octal such as \"0660\"" "write it in octal")
  (both { listen.mode = "0888"; } "mode in octal" "write it in octal")
  (entry { listen.mode = 432; } "mode in octal")
  (both { listen.http = "localhost"; } "address and port such as" "write an address like")
  (both { listen.http = "127.0.0.1:80800"; } "address and port such as" "write an address like")
  (both { listen.http = "127.0.0.256:80"; } "address and port such as" "write an address like")
  (entry { listen.http = "127.0.0.1:0"; } "address and port such as")
  (both { listen.url = "ci.example.org"; } "address such as \"https://example.org\"" "write an address like \"https://example.org\"")
  (both { listen.url = "https://me:pw@ci.example.org"; } "without a user or password" "without a user or password")
  (both { listen.writes = "thru"; } "one of \"spool\", \"through\"" "it can be \"spool\" or \"through\"")
  (both { listen.httpRead = "nobody"; } "one of \"everyone\", \"token\"" "it can be \"everyone\" or \"token\"")
  (both { listen.trustedUsers = [ "a:b" ]; } "name or number of a user" "names no users")
  (both { listen.allowedUsers = [ "@" ]; } "name or number of a user" "names no users")
  (both { listen.tlsCertificateFile = "/c.pem"; } "TLS needs both `tlsCertificateFile` and `tlsKeyFile`" "TLS needs both")
  (both { listen.tlsKeyFile = "/k.pem"; } "TLS needs both" "TLS needs both")
  (entry { listen.tlsKeyFile = "${builtins.storeDir}/k.pem"; } "which everybody can read")
  (entry { openFirewall = true; } "127.0.0.1:8480, which other machines cannot reach")
  (entry { listen.prot = 80; } "does not exist")

  # whole
  (both { storeDir = "gnu/store"; } "absolute path without a slash at its end" "`store_dir` is not a store directory")
  (entry { logFormat = "xml"; } "one of \"text\", \"json\"")
  (entry { logLevel = "info, debug"; } "level such as \"info\"")
  (entry { settings.state_dir = "/data"; } "the units keep the state in /var/lib/nixci")
  (entry { credentials.a = "etc/a"; } "absolute path of a file outside of")

  # stores
  (both (store { uri = "https://cache.example.org"; }) "store: auto, daemon, unix://SOCKET" "expected auto, daemon, unix://SOCKET")
  (both (store { uri = "ssh-ng://"; }) "store: auto, daemon" "is not a host")
  (both (store { slots = 0; }) "between 1 and 10000" "must be between 1 and 10000")
  (both (store { slots = 10001; }) "between 1 and 10000" "must be between 1 and 10000")
  (entry (store { cores = -1; }) "32 bit unsigned integer")
  (both (store { systems = [ ]; }) "non-empty" "builds for no system")
  (both (store { dispatch = "all"; }) "one of \"derivation\", \"root\"" "it can be \"derivation\" or \"root\"")
  (both { stores = [ { name = "a"; } { name = "a"; } ]; } "services.nixci.stores: there are two named `a`; names must differ" "two stores named `a`")
  (both { stores = [ { name = ""; } ]; } "text that is not empty" "a store needs a name")
  (both { stores = [ { uri = "auto"; } ]; } "no value defined" "missing field `name`")

  # forges
  (both (forge { kind = "bitbucket"; }) "one of \"github\", \"forgejo\"" "`kind` is `bitbucket`")
  (both (forge { kind = "forgejo"; }) "`forgejo` needs a `url`" "needs a `url`")
  (both (github { name = "my forge"; }) "name of letters, digits and ._+@-" "cannot name a forge")
  (both { forges = [ { kind = "github"; } { kind = "github"; } ]; } "there are two named `github`; names must differ" "two forges named `github`")
  (both (github { appId = 1; }) "an App needs both" "an App needs both")
  (both (github { appId = 1; privateKeyFile = "/k"; tokenFile = "/t"; }) "one is enough" "one is enough")
  (both (forge { kind = "gitea"; url = "https://git.example.org"; appId = 1; privateKeyFile = "/k"; }) "which only GitHub knows" "which only GitHub knows")
  (both (github { tokenFile = "/t"; form = "checks"; }) "which GitHub takes from Apps only" "which GitHub takes from Apps only")
  (both (github { form = "both"; }) "one of \"checks\", \"statuses\"" "it can be \"checks\" or \"statuses\"")
  (both (github { perMinute = 0; }) "between 1 and" "`per_minute` is 0")
  (entry (github { tokenFile = "absent"; }) "credentials: there is none named `absent`")
  (entry (github { tokenFile = "${builtins.storeDir}/abc-token"; }) "which everybody can read")
  (entry (github { tokenFile = ./all.nix; }) "which everybody can read")
  (entry ((github { tokenFile = "/t"; }) // { credentials.forge-github-token = "/u"; }) "choose another one")
  (both (github { url = "git.example.org"; }) "address such as" "write an address like")

  # projects
  (both (project { forge = "gitlab"; }) "is of the forge `gitlab`, which is none that has repositories; there are github" "there is no [[forge]] named `gitlab`")
  (both (project { forge = "chat"; }) "which is none that has repositories" "that has repositories")
  (both (project { notify = [ "github" ]; }) "which is no forge of kind \"webhook\"; there are chat" "of kind \"webhook\"")
  (both (project { detail = "most"; }) "one of \"adaptive\", \"failures\"" "`detail` is `most`")
  (both (project { jobContext = "nixci"; }) "the same for all jobs" "the same for all jobs")
  (both (project { context = "{branch}"; }) "{attr}, {set}, {kind}" "what stands in braces")
  (both (project { context = " "; }) "{attr}, {set}, {kind}" "`context` is empty")
  (both (project { context = "nixci/evaluation"; }) "they must differ" "they must differ")
  (both { forges = [ { kind = "github"; } { kind = "gitlab"; } ]; projects = [ { name = "*"; } ]; } "needs `forge`, as there are several: github, gitlab" "needs `forge`, as there are several")
  (both (project { name = ""; }) "text that is not empty" "a project needs a name")

  # oidc
  (both (oidc { issuer = "http://git.example.org"; }) "http is taken on this host only" "http is taken on this host only")
  (both (oidc { kind = "jenkins"; }) "one of \"github\", \"gitlab\"" "`kind` is `jenkins`")
  (both (oidc { audience = ""; }) "text that is not empty" "`audience` is empty")
  (both (oidc { forge = "github"; }) "is of the forge `github`" "no [[forge]] named `github`")
  (both (oidc { reuse = "always"; }) "one of \"never\", \"job\"" "it can be \"never\" or \"job\"")
  (both (oidc { maxAge = "1 hour"; }) "duration such as 90s" "is not a duration")
  (both (oidc { allow = [ ]; }) "lets nobody in" "lets nobody in")
  (both (oidc { issuer = "https://gitlab.com"; allow = [ { refs = [ "refs/heads/main" ]; } ]; }) "everybody who has an account there" "everybody who has an account there")
  (both (oidc { allow = [ { rights = [ "admin" ]; } ]; }) "one of \"read\", \"submit\", \"restart\"" "cannot have the right \"admin\"")
  (both { oidc = (oidc { }).oidc ++ (oidc { }).oidc; } "put all rules into one" "put all rules into one")

  # tokens
  (both (token { }) "needs `sha256` or a `file` with it" "needs `sha256` or a `file`")
  (both (token { sha256 = hash; file = "/h"; }) "and not both" "one is enough")
  (both (token { sha256 = "secret"; }) "SHA-256 in 64 hexadecimal digits" "`sha256` of token `a`")
  (both (token { sha256 = hash; rights = [ "write" ]; }) "one of \"read\", \"submit\", \"restart\", \"admin\"" "`write` is no right")
  (both (token { sha256 = hash; expires = "next year"; }) "day such as \"2027-01-01\"" "is no time")
  (both (token { sha256 = hash; expires = "2027-13-01"; }) "day such as" "is no time")
  (both (token { name = "a b"; sha256 = hash; }) "name of letters, digits" "cannot name a token")
  (both (token { sha256 = hash; projects = [ "" ]; }) "text that is not empty" "a project needs a name")
  (both { tokens = [ { name = "a"; sha256 = hash; } { name = "a"; sha256 = hash; } ]; } "there are two named `a`" "two tokens named `a`")

  # limits, retention, cache, keys
  (both { limits.connections = 0; } "between 1 and 1000000" "must be between 1 and 1000000")
  (both { limits.maxString = 100; } "number of bytes between 4096 and 4294967296" "must be between 4096")
  (both { limits.jobs = 0; } "positive integer" "lets nothing pass")
  (both { limits.buildTime = "90"; } "duration such as 90s" "has no unit")
  (both { limits.buildTime = "9999d"; } "of at most 3650d" "at most 3650d")
  (entry { limits.buildTime = 90; } "duration such as 90s")
  (entry { limits.knownPaths = -1; } "unsigned integer")
  (both { retention.collect = "0s"; } "and not none, or \"off\"" "write \"off\" for never")
  (both { retention.evaluations = "3 weeks"; } "duration such as 90s" "is not a duration")
  (both { cache.level = 22; } "between 1 and 19" "zstd has levels from 1")
  (both { cache.size = "10"; } "size such as \"10 GiB\"" "write a size like")
  (both { keys.trustedPublicKeys = [ "cache.nixos.org-1" ]; } "public key of Nix such as" "`trusted_public_keys`")
  (entry { keys.secretKeyFiles = [ "absent" ]; } "credentials: there is none named `absent`")

  # ssh, nginx, and this host as a client
  (entry (ssh { key = "AAAA"; }) "one line of a public ssh key")
  (entry (ssh { key = "ssh-ed25519 AAAA a\nssh-ed25519 BBBB b"; }) "one line of a public ssh key")
  (entry (ssh { key = "command=\"sh\" ssh-ed25519 AAAA"; }) "without options")
  (entry (ssh { key = "ssh-ed25519 AAAA"; name = "a b"; }) "name of letters, digits")
  (entry (ssh { key = "ssh-ed25519 AAAA"; }) "set services.openssh.enable = true")
  (entry { ssh.enable = true; } "add services.nixci.ssh.keys")
  (entry { nginx.enable = true; } "set services.nixci.nginx.host")
  (entry { nginx = { enable = true; host = "https://ci.example.org"; }; } "name of a host such as")
  (entry { nginx = { enable = true; host = "ci.example.org"; }; listen.http = null; } "there is nothing to pass on to")
  (entry { substituter.enable = true; } "set services.nixci.substituter.publicKey")
  (entry { substituter.enable = true; } "set services.nixci.keys.secretKeyFiles")
  (entry { substituter = { enable = true; publicKey = "ci"; }; } "public key of Nix such as")
  (entry { store.enable = true; listen.writes = "spool"; } "set it to \"through\"")
  { client.to = "ci.example.org"; values = { }; told = "address of a daemon"; }

  # What other options of the host say.
  (entry (ssh { key = "ssh-ed25519 AAAA"; }) "add \"nixci\" to services.openssh.settings.AllowUsers" // { host.services.openssh = { enable = true; settings.AllowUsers = [ "alice" ]; }; })
  (entry { } "add \"nixci\" to nix.settings.allowed-users" // { host.nix.settings.allowed-users = [ "@wheel" ]; })
  (entry { nginx = { enable = true; host = "ci.example.org"; }; listen.url = "ci"; } "address such as")
  (entry { keys.secretKeyFiles = [ "/k" ]; substituter = { enable = true; publicKey = "a:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="; }; listen.httpRead = "token"; } "with a netrc-file instead")
  (entry { keys.secretKeyFiles = [ "/k" ]; substituter = { enable = true; publicKey = "a:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="; }; cache.serve = false; } "services.nixci.cache.serve is false")
  (entry { keys.secretKeyFiles = [ "/k" ]; substituter = { enable = true; publicKey = "a:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="; }; listen.http = null; } "services.nixci.listen.http is null")
  (entry { keys.secretKeyFiles = [ "/k" ]; substituter = { enable = true; publicKey = "a:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="; }; listen = { tlsCertificateFile = "/c"; tlsKeyFile = "/k"; }; } "the certificate is not one of 127.0.0.1:8480")
]
