# [[oidc]]
{
  t,
  left,
  needed,
  listOfTables,
  mkOption,
  ...
}:

let
  claim =
    description: example:
    left {
      type = t.nonEmpty;
      usual = "what tokens of this kind call it";
      description = "The claim that is ${description}.";
      inherit example;
    };
  patterns =
    description: example:
    left {
      type = t.listOf t.nonEmpty;
      usual = "any";
      inherit description example;
    };
in
listOfTables {
  description = "Whose jobs are let in without a token of ours, by what their CI system signs.";
  example = [
    {
      issuer = "https://token.actions.githubusercontent.com";
      forge = "github";
      allow = [ { ownerIds = [ 1234567 ]; } ];
    }
  ];
  options = {
    issuer = needed {
      type = t.issuer;
      example = "https://gitlab.example.org";
      description = "Its address, exactly as its tokens write it.";
    };

    kind = left {
      type = t.enum [
        "github"
        "gitlab"
        "forgejo"
        "generic"
      ];
      example = "forgejo";
      usual = "told by the address of GitHub and GitLab, else `generic`";
      description = "What its claims are called.";
    };

    audience = left {
      type = t.nonEmpty;
      example = "nixci";
      usual = "the address of the pages";
      description = "For whom its tokens must be made.";
    };

    forge = left {
      type = t.name;
      example = "github";
      usual = "the only one of its kind, if there is one";
      description = "The forge that has its repositories, by its name.";
    };

    reuse = left {
      type = t.enum [
        "never"
        "job"
      ];
      example = "job";
      usual = "`job` for GitLab, else `never`";
      description = "How often a token is taken: once, or as often as it is good for the same job, project and commit.";
    };

    maxAge = left {
      type = t.duration;
      example = "30m";
      usual = "`24h` for GitLab, else `1h`";
      description = "How old a token may be, and how long it may be good for.";
    };

    claims = mkOption {
      type = t.submodule {
        options = {
          repository = claim "the name of the repository" "project_path";
          repositoryId = claim "the number of the repository" "project_id";
          ownerId = claim "the number of its owner or group" "namespace_id";
          commit = claim "the commit" "sha";
          ref = claim "the branch or tag" "ref_path";
          headRef = claim "the branch that a pull request asks to be merged" "source_branch";
          event = claim "what started the job" "pipeline_source";
          environment = claim "the deployment environment" "environment_name";
          refProtected = claim "whether the branch or tag is protected" "protected";
          job = claim "the run or job" "pipeline_id";
        };
      };
      default = { };
      example.repository = "project_path";
      description = "What claims are called, where the issuer has names of its own.";
    };

    allow = listOfTables {
      description = "Who is let in. The first rule that fits counts; where none does, nobody is.";
      example = [
        {
          ownerIds = [ 1234567 ];
          refs = [ "refs/heads/main" ];
          rights = [
            "submit"
            "read"
          ];
        }
      ];
      options = {
        repositories = patterns "Names of repositories, or patterns." [ "acme/*" ];
        repositoryIds = left {
          type = t.listOf t.id;
          usual = "any";
          example = [ 5123 ];
          description = "Numbers of repositories, which no other gets when a name is given away.";
        };
        ownerIds = left {
          type = t.listOf t.id;
          usual = "any";
          example = [ 1234567 ];
          description = "Numbers of owners or groups.";
        };
        events = patterns "What started the job." [ "push" ];
        refs = patterns "Branches and tags, in full." [ "refs/heads/main" ];
        environments = patterns "Deployment environments." [ "production" ];
        refProtected = left {
          type = t.bool;
          usual = "either";
          example = true;
          description = "Whether the branch or tag must be protected, or must not.";
        };
        rights = left {
          type = t.listOf (
            t.enum [
              "read"
              "submit"
              "restart"
            ]
          );
          usual = "`submit`";
          example = [ "read" ];
          description = "What such a job may; jobs of pull requests never more than submit.";
        };
      };
    };
  };
}
