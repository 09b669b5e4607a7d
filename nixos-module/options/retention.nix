# [retention]
{ t, left, ... }:

{
  failures = left {
    type = t.duration;
    example = "1d";
    usual = "`168h`";
    description = "How long a failed build is not tried again by itself.";
  };

  evaluations = left {
    type = t.duration;
    example = "30d";
    usual = "`90d`";
    description = "How long an evaluation that has ended is kept, with its jobs, logs and uploads.";
  };

  newest = left {
    type = t.number;
    example = 100;
    usual = "20";
    description = "So many evaluations of each project are kept however old they are.";
  };

  uploads = left {
    type = t.duration;
    example = "12h";
    usual = "`24h`";
    description = "How long what was uploaded stays although no evaluation needs it.";
  };

  collect = left {
    type = t.interval;
    example = "off";
    usual = "`24h`";
    description = "How often everything else is collected by itself; `off`: only when somebody asks.";
  };
}
