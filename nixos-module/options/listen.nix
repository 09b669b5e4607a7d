# [listen]
{
  mkOption,
  t,
  left,
  ...
}:

{
  socket = left {
    type = t.socketPath;
    example = "/run/ci/socket";
    usual = "`/run/nixci/socket`";
    description = "The Unix socket, which systemd holds (`nixci-daemon.socket`).";
  };

  mode = left {
    type = t.mode;
    example = "0660";
    usual = "`0666`, as of nix-daemon: `allowedUsers` decides";
    description = "The permission bits of the socket.";
  };

  http = mkOption {
    type = t.nullOr t.address;
    default = "127.0.0.1:8480";
    example = "[::]:8480";
    description = ''
      The address of pages, API, webhooks and binary cache, which systemd holds (`nixci-daemon-http.socket`). `null`: no HTTP.
    '';
  };

  url = left {
    type = t.url;
    example = "https://ci.example.org";
    usual = "that of `http`; with `nginx.enable` that of the virtual host";
    description = "Where people reach the pages: that of the proxy in front. Forges link there.";
  };

  writes = left {
    type = t.enum [
      "spool"
      "through"
    ];
    example = "through";
    usual = "`spool`; with `store.enable` `through`";
    description = ''
      What stock clients' writes do: stay in the daemon's own spool until a build needs them, or go through to the first
      store at once, for clients that look for them on the disk they share with it.
    '';
  };

  httpRead = left {
    type = t.enum [
      "everyone"
      "token"
    ];
    example = "token";
    usual = "`everyone`";
    description = "Who may read over HTTP: everybody who reaches the address, or who has a token with the right `read`.";
  };

  trustedUsers = left {
    type = t.listOf t.user;
    example = [
      "root"
      "@wheel"
    ];
    usual = "root and `nixci`";
    description = ''
      Users of this host who may add what carries no proof of its content, and who look after the store behind the socket. As
      `trusted-users` of Nix: they are as good as root.
    '';
  };

  allowedUsers = left {
    type = t.listOf t.user;
    example = [ "@ci" ];
    usual = "everybody";
    description = "Users of this host who may connect to the socket besides those who are trusted.";
  };

  tlsCertificateFile = left {
    type = t.certificate;
    example = "/var/lib/acme/ci.example.org/fullchain.pem";
    usual = "HTTP without TLS, for a reverse proxy";
    description = ''
      The certificate by which HTTP is served inside TLS, with those between it and the root, as PEM. Needs `tlsKeyFile`. Both
      become credentials, so a renewed one counts after `systemctl restart nixci-daemon` (`security.acme.certs.NAME.postRun`).
      Where the service can read the files itself, name them in `settings.listen` as `tls_certificate_file` and
      `tls_key_file` instead: then it sees the change.
    '';
  };

  tlsKeyFile = left {
    type = t.secret;
    example = "/var/lib/acme/ci.example.org/key.pem";
    description = "The private key of `tlsCertificateFile`, as PEM.";
  };
}
