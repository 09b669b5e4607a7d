# The forced commands of who comes in over ssh.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.nixci;
in
{
  config = lib.mkIf (cfg.enable && cfg.ssh.enable) {
    users.users.nixci = {
      # sshd runs forced commands by the user's shell.
      shell = pkgs.runtimeShell;
      openssh.authorizedKeys.keys = lib.filter (line: line != "") (
        lib.splitString "\n" cfg.internal.rendered.authorizedKeys
      );
    };

    assertions = [
      {
        assertion = config.services.openssh.enable;
        message = "services.nixci.ssh.enable: there is no ssh server on this host; set services.openssh.enable = true";
      }
      {
        assertion =
          let
            allowed = config.services.openssh.settings.AllowUsers or null;
          in
          allowed == null || lib.elem "nixci" allowed;
        message = "services.nixci.ssh.enable: sshd does not let in the user nixci; add \"nixci\" to services.openssh.settings.AllowUsers";
      }
      {
        assertion = cfg.ssh.keys != [ ];
        message = "services.nixci.ssh.enable: nobody can come in; add services.nixci.ssh.keys";
      }
    ];
  };
}
