# [[token]]
{
  t,
  left,
  needed,
  listOfTables,
  ...
}:

listOfTables {
  description = ''
    Who may ask and submit over HTTP. Only hashes are configured: `nixci-daemon hash-token --new` makes a token and its hash.
    `nixci-daemon token create` makes tokens that are not in the configuration.
  '';
  example = [
    {
      name = "runner";
      file = "/etc/nixci/runner.sha256";
      rights = [ "submit" ];
      projects = [ "acme/*" ];
    }
  ];
  options = {
    name = needed {
      type = t.name;
      example = "runner";
      description = "Its name in records; names differ.";
    };

    sha256 = left {
      type = t.sha256;
      example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
      description = "Its hash; this or `file`.";
    };

    file = left {
      type = t.certificate;
      example = "/etc/nixci/runner.sha256";
      description = "A file with its hash; this or `sha256`.";
    };

    rights = left {
      type = t.listOf (
        t.enum [
          "read"
          "submit"
          "restart"
          "admin"
        ]
      );
      example = [ "submit" ];
      usual = "none";
      description = "What it may.";
    };

    projects = left {
      type = t.listOf t.nonEmpty;
      example = [ "acme/*" ];
      usual = "all projects, and what belongs to none: stores, builds, objects";
      description = "Where it may do that: names or patterns in which `*` stands for any text.";
    };

    expires = left {
      type = t.time;
      example = "2027-01-01";
      usual = "never";
      description = "From when on it is worth nothing (UTC).";
    };
  };
}
