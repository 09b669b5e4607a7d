# What the driver promises to scripts, on two machines without nixci.
{
  description = "the driver's own: two machines, their network, power and commands";
  machines = {
    left = {
      sshd = true;
      users = [ "alice" ];
      files = {
        "/etc/greeting" = {
          text = "hello\n";
          mode = "0640";
        };
        "/etc/built.nix".text = ''
          derivation {
            name = "built";
            system = builtins.currentSystem;
            builder = "/bin/sh";
            args = [ "-c" "[ ! -e /etc/hostname ] && echo built > $out" ];
          }
        '';
      };
    };
    right = {
      sshd = true;
      tools = [ "curl" ];
      nix.max-jobs = 3;
    };
  };
  script = ./pair.py;
}
