# Two configurations in which every option has a value that is not its default. Two, because not everything goes together:
# who serves inside TLS to holders of tokens cannot be a substituter of Nix without one.
#
# `daemon` is services.nixci, `client` services.nixci.client; `host` is what else NixOS needs for it. The tests add the
# packages, which are no data.
let
  key = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
in
{
  guarded = {
    daemon = {
      enable = true;
      settings.limits.max_items = 400000;
      storeDir = "/gnu/store";
      logFormat = "json";
      logLevel = "info,nixci_daemon=debug";
      openFirewall = true;
      credentials = {
        arm = "/etc/nixci/arm-key";
        forgejo = "/run/secrets/forgejo";
      };

      listen = {
        socket = "/run/ci/socket";
        mode = "0660";
        http = "[::]:8481";
        url = "https://ci.example.org:8481";
        writes = "through";
        httpRead = "token";
        trustedUsers = [
          "root"
          "nixci"
          "@wheel"
        ];
        allowedUsers = [
          "@ci"
          1000
          "alice"
        ];
        tlsCertificateFile = "/var/lib/acme/ci.example.org/fullchain.pem";
        tlsKeyFile = "/var/lib/acme/ci.example.org/key.pem";
      };

      stores = [
        {
          name = "here";
          uri = "auto";
          slots = 8;
          cores = 4;
          systems = [
            "x86_64-linux"
            "i686-linux"
          ];
          features = [
            "kvm"
            "big-parallel"
          ];
          dispatch = "derivation";
        }
        {
          name = "arm";
          uri = "ssh-ng://builder@arm.example.org:2222?ssh-key=/run/credentials/nixci-daemon.service/arm&compress=true";
          systems = [ "aarch64-linux" ];
          features = [ ];
          dispatch = "root";
        }
      ];

      forges = [
        {
          kind = "github";
          appId = 123456;
          privateKeyFile = "/etc/nixci/github.pem";
          webhookSecretFile = "/etc/nixci/github-webhook";
          form = "checks";
          perMinute = 30;
          perHour = 400;
        }
        {
          name = "work";
          kind = "forgejo";
          url = "https://git.example.org";
          api = "https://git.example.org/forgejo/api/v1";
          tokenFile = "forgejo";
        }
        {
          name = "chat";
          kind = "webhook";
          url = "https://chat.example.org/hooks/nixci";
          webhookSecretFile = "/etc/nixci/chat";
        }
      ];

      projects = [
        {
          name = "acme/widgets";
          forge = "work";
          repository = "acme/widgets-mirror";
          repositoryId = 5123;
          notify = [ "chat" ];
          detail = "failures";
          details = 20;
          comment = true;
          context = "buildbot/nix-build";
          evaluationContext = "buildbot/nix-eval";
          jobContext = "buildbot/nix-build {forge}:{project}#{attr}";
        }
        {
          name = "*";
          forge = "github";
        }
      ];

      oidc = [
        {
          issuer = "https://git.example.org/api/actions";
          kind = "forgejo";
          audience = "nixci";
          forge = "work";
          reuse = "job";
          maxAge = "30m";
          claims = {
            repository = "repository_name";
            repositoryId = "repository_number";
            ownerId = "owner_number";
            commit = "commit";
            ref = "branch";
            headRef = "source_branch";
            event = "event";
            environment = "stage";
            refProtected = "protected";
            job = "job";
          };
          allow = [
            {
              repositories = [ "acme/*" ];
              repositoryIds = [
                5123
                "5124"
              ];
              ownerIds = [ 17 ];
              events = [ "push" ];
              refs = [ "refs/heads/main" ];
              environments = [ "production" ];
              refProtected = true;
              rights = [
                "submit"
                "read"
                "restart"
              ];
            }
          ];
        }
        {
          issuer = "https://token.actions.githubusercontent.com";
          allow = [ { ownerIds = [ 1234567 ]; } ];
        }
      ];

      tokens = [
        {
          name = "runner";
          file = "/etc/nixci/runner.sha256";
          rights = [ "submit" ];
          projects = [ "acme/*" ];
          expires = "2037-01-01T12:00:00Z";
        }
        {
          name = "admin";
          sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
          rights = [
            "read"
            "submit"
            "restart"
            "admin"
          ];
        }
      ];

      limits = {
        connections = 512;
        connectionsPerUser = 64;
        handshakeTime = "10s";
        maxString = 131072;
        maxText = 33554432;
        maxItems = 500000;
        maxPaths = 500000;
        maxMessage = 134217728;
        maxFrame = 33554432;
        maxFeatures = 1000;
        maxControl = 33554432;
        jobs = 200000;
        closureBytes = 8589934592;
        closureUnpackedBytes = 34359738368;
        narBytes = 8589934592;
        logBytes = 16777216;
        webhookBytes = 5242880;
        buildTime = "4h";
        silentTime = "30 min";
        abandonAfter = "5m";
        knownPaths = 100000;
        knownInfos = 0;
        knownTime = "300s";
        stopTime = "30s";
      };

      retention = {
        failures = "1d";
        evaluations = "30d";
        newest = 100;
        uploads = "12h";
        collect = "off";
      };

      cache = {
        serve = false;
        priority = 30;
        level = 9;
        size = "20 GiB";
      };

      keys = {
        secretKeyFiles = [ "/etc/nixci/key" ];
        trustedPublicKeys = [ key ];
      };

      ssh = {
        enable = true;
        keys = [
          {
            name = "laptop";
            key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBH9BCpKRxNDR4VLVLcTcFmVOaYDxAqHw0mGH5Wr2dqN me@laptop\n";
            trusted = true;
          }
        ];
      };
    };

    client = {
      enable = true;
      to = "https://ci.example.org:8481";
    };

    host.services.openssh.enable = true;
  };

  open = {
    daemon = {
      enable = true;
      nginx = {
        enable = true;
        host = "ci.example.org";
      };
      openFirewall = true;
      keys.secretKeyFiles = [ "/etc/nixci/key" ];
      substituter = {
        enable = true;
        publicKey = key;
      };
      store.enable = true;
    };
    client = {
      enable = true;
      to = "unix:///run/nixci/socket";
    };
    host.services.nginx.virtualHosts."ci.example.org" = {
      forceSSL = true;
      sslCertificate = "/etc/ssl/ci.pem";
      sslCertificateKey = "/etc/ssl/ci.key";
    };
  };
}
