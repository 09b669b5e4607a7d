# [[forge]]
{
  t,
  left,
  needed,
  listOfTables,
  ...
}:

listOfTables {
  description = "Who is told of verdicts, and tells of pushes and pull requests.";
  example = [
    {
      kind = "github";
      appId = 123456;
      privateKeyFile = "/etc/nixci/github.pem";
      webhookSecretFile = "/etc/nixci/webhook";
    }
    {
      kind = "forgejo";
      url = "https://git.example.org";
      tokenFile = "/etc/nixci/forgejo";
    }
  ];
  options = {
    name = left {
      type = t.name;
      example = "work";
      usual = "its `kind`";
      description = "Its name in records, for `projects`, and in the address of its webhooks, `/webhooks/NAME`; names differ.";
    };

    kind = needed {
      type = t.enum [
        "github"
        "forgejo"
        "gitea"
        "gitlab"
        "webhook"
      ];
      example = "forgejo";
      description = "What it speaks. `webhook` is anybody who takes the verdict as signed JSON.";
    };

    url = left {
      type = t.url;
      example = "https://git.example.org";
      usual = "`https://github.com` or `https://gitlab.com`; the other kinds need it";
      description = "The address people use; of a `webhook` where the verdict is sent.";
    };

    api = left {
      type = t.url;
      example = "https://git.example.org/api/v1";
      usual = "what its kind has below `url`";
      description = "The address of its API.";
    };

    appId = left {
      type = t.count;
      example = 123456;
      description = "The number of the GitHub App, with `privateKeyFile`.";
    };

    privateKeyFile = left {
      type = t.secret;
      example = "/etc/nixci/github.pem";
      description = "The private key of the GitHub App, as PEM.";
    };

    tokenFile = left {
      type = t.secret;
      example = "/etc/nixci/forgejo";
      description = "The token of a user or a bot; of GitHub in place of an App.";
    };

    webhookSecretFile = left {
      type = t.secret;
      example = "/etc/nixci/webhook";
      usual = "no webhooks are taken";
      description = "The secret that signs its webhooks to us, or ours to it (`webhook`).";
    };

    form = left {
      type = t.enum [
        "checks"
        "statuses"
      ];
      example = "statuses";
      usual = "`checks` with an App, `statuses` with a token";
      description = "In which form GitHub is told.";
    };

    perMinute = left {
      type = t.positiveNumber;
      example = 30;
      usual = "75 for GitHub, 120 for `webhook`, 300 for the others";
      description = "Writes a minute at most.";
    };

    perHour = left {
      type = t.positiveNumber;
      example = 400;
      usual = "480 for GitHub, 3600 for `webhook`, 10000 for the others";
      description = "Writes an hour at most.";
    };
  };
}
