# [[project]]
{
  t,
  left,
  needed,
  listOfTables,
  ...
}:

listOfTables {
  description = "Which projects are told where. The first that fits counts.";
  example = [
    {
      name = "acme/*";
      forge = "github";
      detail = "failures";
    }
  ];
  options = {
    name = needed {
      type = t.nonEmpty;
      example = "acme/*";
      description = "The projects this is about: a name, or a pattern in which `*` stands for any text.";
    };

    forge = left {
      type = t.name;
      example = "github";
      usual = "the only one there is, if there is one";
      description = "The forge that has them, by its name.";
    };

    repository = left {
      type = t.nonEmpty;
      example = "acme/widgets";
      usual = "the name of the project";
      description = "The repository there, where it is called otherwise.";
    };

    repositoryId = left {
      type = t.count;
      example = 5123;
      description = "The forge's number of the repository, which a name that was given away does not have.";
    };

    notify = left {
      type = t.listOf t.name;
      example = [ "chat" ];
      usual = "none";
      description = "Forges of kind `webhook` that are told too, by their names.";
    };

    detail = left {
      type = t.enum [
        "adaptive"
        "failures"
        "all"
        "summary"
      ];
      example = "failures";
      usual = "`adaptive`";
      description = "Which jobs get a line besides the summary: all up to `details` and above that those that failed by themselves, only those that failed by themselves, every one, or none.";
    };

    details = left {
      type = t.number;
      example = 20;
      usual = "47";
      description = "How many jobs get a line at most, but with `all`.";
    };

    comment = left {
      type = t.bool;
      example = true;
      usual = "`false`";
      description = "Whether the verdict is also a comment on the pull request (Forgejo and Gitea).";
    };

    context = left {
      type = t.template;
      example = "buildbot/nix-build";
      usual = "`nixci`";
      description = "The name of the summary.";
    };

    evaluationContext = left {
      type = t.template;
      example = "buildbot/nix-eval";
      usual = "`nixci/evaluation`";
      description = "The name of the status of evaluation errors.";
    };

    jobContext = left {
      type = t.template;
      example = "{kind} {name} [{system}]";
      usual = "`nixci/{attr}`";
      description = "The name of the status of a job; it needs `{attr}` or `{name}`.";
    };
  };
}
